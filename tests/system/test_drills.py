"""Things are broken on purpose and taken back by the playbooks that operators use; content is compared by checksum."""

import json
from pathlib import Path

import pytest
import yaml

from tests.deployed import ROOT

DRILL = "playbooks/drill.yml"
DRILLS = yaml.safe_load((ROOT / DRILL).read_text())[0]["vars"]["__drills"]
SHORT = ("overwritten-raw", "deleted-bucket")
WITHOUT = "overwritten-raw"


@pytest.fixture
def drill(platform, warehouse, year):
    """Runs drills; returns the play and its figures by drill. Whatever came of it, published data are what they were."""

    def run(*names: str, restore: bool = True):
        before = warehouse.contents()
        play = platform.playbook(DRILL, "-e", f"drill={','.join(names)}", "-e", f"drill_disable_restore={not restore}")
        kept = play.result("Keep the figures").get("dest")
        assert kept, play.failed or play.stderr
        assert warehouse.contents() == before
        figures = {each["drill"]: each for each in json.loads(Path(kept).read_text())}
        assert tuple(figures) == names
        return play, figures

    return run


def check_restored(play, figures):
    assert play.returncode == 0, play.failed or play.stderr
    for name, each in figures.items():
        assert each["passed"] and each["damage"] and each["rto_seconds"] > 0, (name, each)
        assert (each["lost_rows"], each["lost_objects"]) == (0, 0), (name, each)
        assert each["amount"]["rows"] > 300_000 and each["amount"]["objects"] > 0


def check_fails_without_its_restore(play, figures):
    """It fails, and is judged right in that: the restore, done afterwards, brings everything back."""
    assert play.returncode != 0
    assert f"These drills failed: {', '.join(figures)}" in str(play.failed)
    for name, each in figures.items():
        assert each["damage"] and each["differs"] and not each["passed"], (name, each)
        assert each["missing_at_the_end"] == [] and each["rto_seconds"] > 0, (name, each)


def test_data_come_back(drill):
    check_restored(*drill(*SHORT))


def test_without_its_restore_a_drill_fails(drill):
    play, figures = drill(WITHOUT, restore=False)
    check_fails_without_its_restore(play, figures)
    assert figures[WITHOUT]["lost_objects"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DRILLS if name != WITHOUT])
def test_every_drill_fails_without_its_restore(drill, name):
    check_fails_without_its_restore(*drill(name, restore=False))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (("drill=all", "platform_drills=false"), "does not allow drills"),
        (("drill=all", "platform_protected=true"), "is protected"),
        (("drill=lost-memory",), "Name drills: -e drill=all, or some of"),
        (("drill=",), "Name drills"),
    ],
)
def test_refused_before_anything_is_touched(platform, asked, why):
    play = platform.playbook(DRILL, *(word for each in asked for word in ("-e", each)))
    assert play.returncode != 0 and why in str(play.failed)
    assert play.changed == {}
