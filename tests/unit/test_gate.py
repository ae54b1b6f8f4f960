"""The landing gate runs every system test."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_every_file_of_system_tests_is_in_one_part_of_the_gate():
    named = " ".join(re.findall(r"\$\(call tests,([^)]*)\)", (ROOT / "Makefile").read_text())).split()
    assert sorted(named) == sorted(path.stem.removeprefix("test_") for path in ROOT.glob("tests/system/test_*.py"))


def runs(workflow: str) -> list[str]:
    """The scripts of a workflow's steps."""
    jobs = yaml.safe_load((ROOT / ".github/workflows" / workflow).read_text())["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("workflow", ["cd.yml", "rollback.yml"])
def test_what_people_typed_reaches_ansible_as_json(workflow):
    """`-e to="$TO"` would be read as several variables where the text has spaces: whoever may start a workflow could set any."""
    assert [run for run in runs(workflow) if re.search(r"-e \w+=\S*\$", run)] == []


def test_a_runner_that_is_thrown_away_makes_no_secrets():
    deployments = [run for run in runs("cd.yml") if '"$PLAYBOOK"' in run]
    assert len(deployments) == 2 and all("-e secrets_generate=false" in run for run in deployments)
