"""What the runbooks tell an operator to do can be done: what only looks is run, what changes something names units that exist."""

import re
import shlex
import subprocess
import sys

import pytest

from tests.causes import sql
from tests.deployed import ROOT

pytestmark = pytest.mark.slow
# Where a command is run that names no unit: on the first host of a group.
TOOLS = {
    "amtool": "alertmanager",
    "curl -sK": "elasticsearch",
    "dmesg": "minio",
    "du": "alertmanager",
    "etl-approve": "rollback_notifier",
    "grep": "log_shipper",
    "lsblk": "minio",
    "pgbackrest": "pgbackrest",
    "promtool": "prometheus",
    "ps": "spark_worker",
    "ss": "spark_history",
}
UNITS = {"systemctl", "journalctl"}
SQL = ("select", "table")
CHANGES = ("approve", "reject", "show", "add", "silence", "-X", "--vacuum-size=500M")
PATTERN = re.compile(r" -g ('[^']*'|\S+)")
EXAMPLES = {"<cluster>": "dwh", "<unit>": "systemd-journald", "<day>": "today", "<run>": "none", " -b -1": " -b"}


def commands() -> list[tuple[str, str]]:
    """Runbook and command of everything that begins like one: of an alert's in `What to do`, of the others anywhere."""
    found = []
    for path in sorted((ROOT / "docs/runbooks").glob("*.md")):
        text = path.read_text()
        if path.stem[0].isupper():
            (text,) = re.findall(r"^## What to do\n(.*?)(?=^## |\Z)", text, re.S | re.M)
        elif path.stem.startswith("cloud-"):
            continue  # tests/cloud follows them
        for each in re.findall(r"`([^`]+)`", " ".join(text.split())):
            word = tool(each)
            if word in TOOLS | dict.fromkeys(UNITS) or (word in SQL and " " in each) or each.startswith("make psql"):
                found.append((path.stem, each))
    return found


def tool(command: str) -> str:
    """The program that a command runs, without sudo."""
    words = re.sub(r"^sudo (-u \w+ )?", "", command).split()
    return " ".join(words[:2]) if words[:2] == ["curl", "-sK"] else words[0]


def units(command: str) -> list[str]:
    """The units that a command of systemctl or journalctl names."""
    words = shlex.split(command)
    if words[0] == "journalctl":
        return [words[index + 1] for index, word in enumerate(words[:-1]) if word == "-u"]
    return [word for word in words[2:] if not word.startswith("-") and word not in ("STOP", "CONT")]


def test_there_are_commands():
    assert len(commands()) > 50


@pytest.mark.parametrize(("runbook", "command"), commands())
def test_a_command_of_a_runbook_can_be_run(platform, runbook, command):
    for placeholder, example in EXAMPLES.items():
        command = command.replace(placeholder, example)
    word = tool(command)
    if command.startswith("make psql"):
        asked = shlex.split(command)[2].removeprefix("ARGS=")
        script = [sys.executable, str(ROOT / "ansible/bin/environment.py"), "-i", str(platform.environment.inventory)]
        subprocess.run([*script, "psql", "--", *shlex.split(asked)], check=True, capture_output=True, cwd=ROOT)
    elif word in SQL:
        platform.run(platform.environment.hosts("postgresql")[0], sql("dwh", command))
    elif word in UNITS and (named := units(command)):
        pattern = " ".join(shlex.quote(each) for each in named)
        listed = (
            f"systemctl list-unit-files --no-legend {pattern}; systemctl list-units --all --no-legend --plain {pattern}"
        )
        for unit in named:
            name = unit if re.search(r"\.(service|timer)$", unit) or "*" in unit else f"{unit}.service"
            check = f"systemctl cat {shlex.quote(name)}" if "*" not in unit else listed
            hosts = [host for host in platform.hosts if succeeds(platform, host, f"{check} | grep -q .")]
            assert hosts, f"no host has {unit}"
            if word == "journalctl":  # -g: nothing need have gone wrong
                platform.run(hosts[0], PATTERN.sub("", command) + " --no-pager")
    elif not set(shlex.split(command)) & set(CHANGES):
        host = platform.environment.hosts(TOOLS.get(word, "alertmanager"))[0]
        platform.run(host, PATTERN.sub("", command) if word == "journalctl" else command)


def succeeds(platform, host: str, command: str) -> bool:
    """Whether a command can be run on a host."""
    try:
        platform.run(host, command)
    except subprocess.CalledProcessError:
        return False
    return True
