"""Volumes are mounted where nothing is, those below others after them."""

from pathlib import Path

import pytest
import yaml
from ansible.template import Templar, trust_as_template
from environment import vault_loader

TASKS = Path(__file__).resolve().parents[2] / "roles/storage/tasks"


def tasks(file: str) -> list[dict]:
    return yaml.safe_load((TASKS / file).read_text())


def templar(**variables) -> Templar:
    return Templar(loader=vault_loader(), variables=variables)


@pytest.mark.parametrize(
    ("looked", "goes_on"), [({"matched": 0}, True), ({"matched": 1}, False), ({"skipped": True}, True)]
)
def test_a_volume_hides_no_files(looked, goes_on):
    names = [next(name for name in task if "." in name) for task in tasks("volume.yml")]
    look, mount = names.index("ansible.builtin.find", 1), names.index("ansible.posix.mount")
    assert names[look + 1] == "ansible.builtin.assert" and look < mount
    check = tasks("volume.yml")[look + 1]["ansible.builtin.assert"]["that"]
    assert templar(__storage_hidden=looked).evaluate_conditional(trust_as_template(check)) is goes_on


def test_what_is_mounted_already_is_not_looked_at():
    [when] = [task["when"] for task in tasks("volume.yml") if task.get("register") == "__storage_hidden"]
    facts = {"mounts": [{"mount": "/"}, {"mount": "/var/lib/minio"}]}
    for mount, looked in (("/var/lib/minio", False), ("/var/lib/minio/drive1", True)):
        known = templar(ansible_facts=facts, __storage_volume={"mount": mount})
        assert known.evaluate_conditional(trust_as_template(when)) is looked


def test_a_volume_below_another_comes_after_it():
    [loop] = [task["loop"] for task in tasks("main.yml") if "loop" in task]
    volumes = [{"id": "1", "mount": "/srv/a/b"}, {"id": "2", "mount": "/srv/a"}]
    mounts = templar(storage_volumes=volumes).template(trust_as_template(loop))
    assert [volume["mount"] for volume in mounts] == ["/srv/a", "/srv/a/b"]
