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
    """Runs tasks on this machine, by so many names of it, as a playbook of the repository would; returns the finished process."""

    def run(
        tasks: list[dict],
        variables: dict,
        *arguments: str,
        hosts: str = "localhost",
        handlers: list[dict] | None = None,
    ) -> subprocess.CompletedProcess:
        variables |= {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        book, values = tmp_path / "play.yml", tmp_path / "values.yml"
        contents = {"hosts": "all", "gather_facts": False, "tasks": tasks, "handlers": handlers or []}
        book.write_text(yaml.safe_dump([contents]))
        values.write_text(yaml.safe_dump(variables))
        return subprocess.run(
            [ROOT / ".venv/bin/ansible-playbook", "-i", f"{hosts},", book, "-e", f"@{values}", *arguments],
            env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ETL_VAULT_PASSWORD": "unused"},
            capture_output=True,
            text=True,
        )

    return run
