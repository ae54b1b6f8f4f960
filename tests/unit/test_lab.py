"""Making and removing the lab is for the lab's inventories alone: `make destroy ENV=prod` would remove prod's CA and vault."""

from pathlib import Path

import pytest
import yaml
from ansible.template import Templar, trust_as_template
from environment import Environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("inventory", "lab"),
    [("local", True), ("../tests/cloud/lab", True), ("dev", False), ("staging", False), ("prod", False)],
)
def test_the_lab_is_made_and_removed_for_its_own_inventories(inventory, lab, tmp_path):
    first = yaml.safe_load((ROOT / "roles/lab/tasks/preflight.yml").read_text())[0]["ansible.builtin.assert"]
    source = ROOT / "inventories" / inventory
    (tmp_path / "hosts.yml").write_text("all: {hosts: {one: {ansible_host: 10.0.0.1}}}\n")
    (tmp_path / "group_vars").symlink_to(source / "group_vars")
    found = Environment(tmp_path / "hosts.yml")
    variables = found._variables.get_vars(host=found._manager.get_host("one"))
    templar = Templar(loader=found._loader, variables=variables)
    assert templar.evaluate_conditional(trust_as_template(first["that"])) is lab
    assert Templar(loader=found._loader, variables={}).evaluate_conditional(trust_as_template(first["that"])) is False
