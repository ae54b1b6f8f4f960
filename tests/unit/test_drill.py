"""What drills compare, what they break, and where they refuse to."""

import copy
import subprocess
from pathlib import Path

import pytest
import spoil
import yaml

from jobs.rollback import drill

ROOT = Path(__file__).resolve().parents[2]
BEFORE = {
    "tables": {"fact": [10, "1"], "dim": [3, "2"]},
    "objects": {"raw": {"a": [1, "x"], "b": [2, "y"]}, "curated": {}},
    "release": {"release": "good", "schema level": 9},
    "more": {"flows": ["flights: 1"]},
    "bytes": 8192,
}


@pytest.fixture
def after():
    return copy.deepcopy(BEFORE)


def test_nothing_differs_also_when_objects_came(after):
    after["objects"]["raw"]["c"] = [3, "z"]
    assert drill.differences(BEFORE, after) == {"differs": [], "tables": 0, "rows": 0, "objects": 0}
    assert drill.amount(BEFORE) == {"rows": 13, "warehouse_bytes": 8192, "objects": 2, "object_bytes": 3}


@pytest.mark.parametrize(
    ("spoiled", "told", "lost"),
    [
        (lambda it: it["tables"].pop("dim"), "dwh.dim: [3, '2'] is gone", (3, 0)),
        (lambda it: it["tables"].update(fact=[10, "9"]), "dwh.fact: [10, '1'] is [10, '9']", (10, 0)),
        (lambda it: it["tables"].update(new=[0, "0"]), "dwh.new is new", (0, 0)),
        (lambda it: it["objects"]["raw"].pop("b"), "raw: 1 of 2 objects are gone or changed, b first", (0, 1)),
        (
            lambda it: it["objects"]["raw"].update(a=[1, "z"]),
            "raw: 1 of 2 objects are gone or changed, a first",
            (0, 1),
        ),
        (lambda it: it["release"].update(release="bad"), "release: good is bad", (0, 0)),
        (lambda it: it["more"].update(flows=[]), "flows: ['flights: 1'] is []", (0, 0)),
    ],
)
def test_every_kind_of_damage_is_told(after, spoiled, told, lost):
    spoiled(after)
    found = drill.differences(BEFORE, after)
    assert found["differs"] == [told] and (found["rows"], found["objects"]) == lost


def test_a_warehouse_that_is_away_lost_everything(after):
    after |= {"tables": {}, "release": {}, "warehouse": "connection refused"}
    found = drill.differences(BEFORE, after)
    assert "the warehouse does not answer: connection refused" in found["differs"] and found["rows"] == 13


@pytest.mark.parametrize("fault", spoil.FAULTS)
def test_every_fault_can_be_put_into_this_checkout(tmp_path, fault):
    """They are edits of today's code: where it moves on, they have to."""
    packed = subprocess.run(["tar", "-C", ROOT, "-c", "jobs", "dags"], capture_output=True, check=True).stdout
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        subprocess.run(["tar", "-C", tmp_path / name, "-x"], input=packed, check=True)
    assert spoil.main([str(tmp_path / "new"), fault]) == 0
    differs = subprocess.run(["diff", "-rqN", "old", "new"], cwd=tmp_path, capture_output=True, text=True).stdout
    for changed in ("etl-probe.timer", "probe.py", "flights.json", "probe.json", "_probe.up.sql"):
        assert changed in differs, differs


def test_drills_are_allowed_in_the_lab_alone():
    allowed = {
        path.parts[-4]: yaml.safe_load(path.read_text()).get("platform_drills", False)
        for path in ROOT.glob("inventories/*/group_vars/all/common.yml")
    }
    assert [name for name, drills in allowed.items() if drills] == ["local"]
    assert "platform_drills" not in (ROOT / "inventories/platform.yml").read_text()


def test_every_drill_has_its_damage_and_its_runbook():
    (play,) = yaml.safe_load((ROOT / "playbooks/drill.yml").read_text())
    for name, each in play["vars"]["__drills"].items():
        assert (ROOT / f"playbooks/drills/{each['damage']}.yml").exists(), name
        assert (ROOT / f"docs/runbooks/{each['runbook']}.md").exists(), name
        assert each["damage"] != "release" or name in spoil.FAULTS
