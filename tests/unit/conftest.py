"""What unit tests share."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.deployed import ROOT


@pytest.fixture(scope="session")
def promtool() -> str:
    """promtool: the installed one, or that of Debian's package, unpacked and not installed: it would start a server."""
    if found := shutil.which("promtool"):
        return found
    cache = ROOT / ".cache/promtool"
    if not (cache / "usr/bin/promtool").exists():
        cache.mkdir(parents=True, exist_ok=True)
        names = subprocess.run(
            ["apt-cache", "--generate", "pkgnames", "prom"], check=True, capture_output=True, text=True
        ).stdout.split()
        package = "promtool" if "promtool" in names else "prometheus"
        subprocess.run(["apt-get", "download", package], cwd=cache, check=True, capture_output=True)
        for archive in cache.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, cache], check=True)
            archive.unlink()
    return str(cache / "usr/bin/promtool")


@pytest.fixture
def play(tmp_path):
    """Runs tasks on this machine, as a playbook of the repository would: (tasks, variables, *arguments) -> the finished process."""

    def run(tasks: list[dict], variables: dict, *arguments: str) -> subprocess.CompletedProcess:
        variables |= {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        book, values = tmp_path / "play.yml", tmp_path / "values.yml"
        book.write_text(yaml.safe_dump([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]))
        values.write_text(yaml.safe_dump(variables))
        return subprocess.run(
            [ROOT / ".venv/bin/ansible-playbook", "-i", "localhost,", book, "-e", f"@{values}", *arguments],
            env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ETL_VAULT_PASSWORD": "unused"},
            capture_output=True,
            text=True,
        )

    return run
