"""Alert rules: valid, complete, each with a runbook and with cases that promtool runs."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.causes import ELSEWHERE, GATE, SLOW, alerts_of

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "roles/prometheus/files/rules").glob("*.yml"))
CASES = sorted((ROOT / "tests/unit/alerts").glob("*.yml"))
OWNERS = {"platform", "data"}
SEVERITIES = {"critical", "warning", "none"}


def alerts() -> dict[str, dict]:
    """The alert rules by name."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def run(*command: str | Path) -> None:
    """Run a command; its output is the message when it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_are_valid(promtool):
    run(promtool, "check", "rules", *RULES)


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_silent(promtool, cases, tmp_path):
    """Labels and times; the annotations, which promtool would compare word by word, are left out on both sides."""
    rules = yaml.safe_load((ROOT / f"roles/prometheus/files/rules/{cases.name}").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    (tmp_path / "cases.yml").write_text(
        yaml.safe_dump({"rule_files": ["rules.yml"]} | yaml.safe_load(cases.read_text()))
    )
    run(promtool, "test", "rules", tmp_path / "cases.yml")


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_who_and_what_to_do(name):
    rule = alerts()[name]
    assert rule["labels"]["severity"] in SEVERITIES
    assert rule["labels"]["owner"] in OWNERS
    assert rule["annotations"]["summary"] and rule["annotations"]["description"]
    assert rule["annotations"]["runbook"] == f"docs/runbooks/{name}.md"
    runbook = (ROOT / rule["annotations"]["runbook"]).read_text()
    for heading in (f"# {name}", "## What it means", "## What to do", "## Caused on purpose"):
        assert f"{heading}\n" in runbook, f"{name}.md has no part '{heading}'"


def test_every_runbook_is_of_an_alert():
    assert {path.stem for path in (ROOT / "docs/runbooks").glob("[A-Z]*.md")} - {"README"} <= set(alerts())


@pytest.mark.parametrize("name", alerts())
def test_an_alert_has_a_case_that_fires_and_one_that_does_not(name):
    tested = [
        bool(case["exp_alerts"])
        for path in CASES
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        if case["alertname"] == name
    ]
    assert True in tested, f"{name}: no case fires"
    assert False in tested or name == "Watchdog", f"{name}: no case stays silent"


def test_objectives_that_rules_name_exist():
    named = set(re.findall(r"slo:(\w+)", "".join(path.read_text() for path in RULES)))
    assert named == set(
        yaml.safe_load((ROOT / "roles/prometheus/defaults/main.yml").read_text())["prometheus_objectives"]
    )


def test_every_alert_is_caused_on_the_deployed_platform():
    """A new alert needs an entry in tests/causes.py: what makes it fire, or why that is not done."""
    assert sorted([*alerts_of(GATE), *alerts_of(SLOW), *ELSEWHERE]) == sorted(alerts())
