"""Secrets are generated where their vault is kept, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def secrets(tmp_path):
    (tmp_path / "hosts.yml").write_text("all: {hosts: {one: }}\n")

    def play(*arguments: str) -> tuple[int, str, Path]:
        done = subprocess.run(
            [
                Path(sys.executable).with_name("ansible-playbook"),
                "-i",
                tmp_path / "hosts.yml",
                "playbooks/secrets.yml",
                *arguments,
            ],
            cwd=ROOT,
            env=os.environ | {"ETL_VAULT_PASSWORD": "of this test", "ANSIBLE_NOCOLOR": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout, tmp_path / "group_vars/all/vault.yml"

    return play


def test_where_the_vault_is_not_kept_a_missing_secret_stops_the_deployment(secrets):
    frozen = ("-e", "secrets_generate=false")
    status, said, vault = secrets(*frozen)
    assert status != 0 and "lacks airflow_admin_password" in said and not vault.exists(), said

    status, said, vault = secrets()
    assert status == 0 and vault.read_text().startswith("$ANSIBLE_VAULT"), said
    status, said, vault = secrets(*frozen)
    assert status == 0, said
