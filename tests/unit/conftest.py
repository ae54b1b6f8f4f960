"""What unit tests share."""

import os
import shutil
import subprocess
import sys

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

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


def trusted(value):
    """Mark every string in a structure as a template."""
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [trusted(item) for item in value]
    return trust_as_template(value) if isinstance(value, str) else value


@pytest.fixture(scope="session")
def policies():
    """The policy of each user of the object store, rendered from the role's defaults and the platform's values."""
    defaults = yaml.safe_load((ROOT / "roles/minio/defaults/main.yml").read_text())
    platform = yaml.safe_load((ROOT / "inventories/platform.yml").read_text())
    users = ("nifi", "spark", "airflow", "release", "backup", "file_backup", "rollback", "snapshot")
    secrets = {f"platform_s3_{user}_secret_key": "secret" for user in users}
    secrets["minio_metrics_secret_key"] = "secret"
    variables = trusted({**defaults, **{k: v for k, v in platform.items() if k.startswith("platform_s3_")}, **secrets})
    users = Templar(loader=DataLoader(), variables=variables).template(variables["minio_users"])
    template = trust_as_template((ROOT / "roles/minio/templates/policy.json.j2").read_text())
    return {
        user["access_key"]: yaml.safe_load(
            Templar(loader=DataLoader(), variables={"__minio_grant": user}).template(template)
        )
        for user in users
    }


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
