"""Airflow removes none of its logs: systemd's daily cleaning does, by what the role declares."""

import os
import shutil
import subprocess
import time

import pytest
from test_templates import renderings


@pytest.mark.skipif(not shutil.which("systemd-tmpfiles"), reason="this machine has no systemd")
def test_old_logs_go_and_the_others_stay(tmp_path):
    (text,) = renderings("airflow/templates/tmpfiles.conf.j2", tmp_path / "inventory")
    (tmp_path / "airflow.conf").write_text(text)
    logs = tmp_path / "root/var/log/airflow"
    for name, days in [("dag_id=a/run_id=old/attempt=1.log", 31), ("dag_id=a/run_id=new/attempt=1.log", 29)]:
        file = logs / name
        file.parent.mkdir(parents=True)
        file.write_text("a line\n")
        for path in (file, file.parent):
            os.utime(path, (time.time(), time.time() - days * 86400))
    subprocess.run(["systemd-tmpfiles", "--clean", f"--root={tmp_path}/root", tmp_path / "airflow.conf"], check=True)
    assert [path.relative_to(logs).as_posix() for path in sorted(logs.rglob("*"))] == [
        "dag_id=a",
        "dag_id=a/run_id=new",
        "dag_id=a/run_id=new/attempt=1.log",
    ]
