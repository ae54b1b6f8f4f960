"""Restore points, plans and restores with the real pgBackRest, a PostgreSQL of this machine's binaries and a repository on disk."""

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[2]
BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])).parent
# What the modules need of a host: the unit is pg_ctl, the other user is this test's, the journal is the server's log.
SHIMS = {
    "systemctl": """
case "$1" in
  stop) $AS $BINARIES/pg_ctl -D $PLACE/data -m fast stop >/dev/null || [ ! -e $PLACE/data/postmaster.pid ];;
  start) $AS $BINARIES/pg_ctl -D $PLACE/data -W -l $PLACE/log/server start >/dev/null;;
  is-active) $AS $BINARIES/pg_ctl -D $PLACE/data status >/dev/null && echo active || { echo failed; exit 3; };;
esac
""",
    "runuser": 'shift 3; exec "$@"',
    "pgbackrest": 'exec $AS $PGBACKREST --config=$PLACE/pgbackrest.conf "$@"',
    "psql": 'exec $BINARIES/psql -h $PLACE -U postgres "$@"',
    "journalctl": "tail -n 5 $PLACE/log/server",
}
CONFIGURATION = """
[global]
repo1-path={place}/repo
repo1-retention-full=9
lock-path={place}/lock
log-path={place}/log
spool-path={place}/spool
log-level-console=warn
start-fast=y
archive-async=y
[dwh]
pg1-path={place}/data
pg1-port=5999
pg1-socket-path={place}
pg1-user=postgres
"""
SERVER = """
port = 5999
listen_addresses = ''
unix_socket_directories = '{place}'
fsync = off
archive_mode = on
archive_command = '{place}/bin/pgbackrest --stanza=dwh archive-push %p'
"""


def load(path: str, name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pgbackrest() -> str:
    """pgBackRest: the installed one, or that of Debian's package, unpacked and not installed: it would bring users and timers."""
    if found := shutil.which("pgbackrest"):
        return found
    cache = ROOT / ".cache/pgbackrest"
    if not (cache / "usr/bin/pgbackrest").exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "pgbackrest"], cwd=cache, check=True, capture_output=True)
        for archive in cache.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, cache], check=True)
            archive.unlink()
    return str(cache / "usr/bin/pgbackrest")


@pytest.fixture(scope="module")
def cluster(pgbackrest):
    """A cluster with one full backup, and the three modules as functions."""
    place = Path(tempfile.mkdtemp(prefix="etl-pgbr-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"))
    shutil.copy(pgbackrest, place / "pgbackrest")
    for name in ("bin", "repo", "lock", "log", "spool"):
        (place / name).mkdir()
    user = "setpriv --reuid=postgres --regid=postgres --clear-groups" if os.geteuid() == 0 else ""
    head = f"#!/bin/bash\nAS='{user}' PLACE={place} BINARIES={BINARIES} PGBACKREST={place}/pgbackrest\n"
    head += '[ "$(id -un)" = root ] || AS=\n'
    for name, body in SHIMS.items():
        (place / "bin" / name).write_text(head + body)
        (place / "bin" / name).chmod(0o755)
    (place / "pgbackrest.conf").write_text(CONFIGURATION.format(place=place))
    if user:
        shutil.chown(place, "postgres", "postgres")
        for path in place.rglob("*"):
            shutil.chown(path, "postgres", "postgres")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{place}/bin:{os.environ['PATH']}")
        utils = load("ansible/plugins/module_utils/pgbackrest.py", "ansible.module_utils.pgbackrest")
        plan, restore, point = (
            load(f"ansible/plugins/modules/pgbackrest_{name}.py", f"tested_{name}")
            for name in ("plan", "restore", "restore_point")
        )
        for module in (plan, point):  # the socket that the modules know is a host's
            patch.setattr(module, "SOCKET", str(place))

        given = {"stanza": "dwh", "port": 5999, "database": "postgres", "timeline": None}

        def query(text: str) -> list:
            with psycopg.connect(
                host=str(place), port=5999, dbname="postgres", user="postgres", autocommit=True
            ) as conn:
                found = conn.execute(text)
                return [row[0] for row in found.fetchall()] if found.description else []

        def run(*command: str) -> None:
            done = subprocess.run(command, capture_output=True, text=True, cwd=place)
            assert done.returncode == 0, done.stdout + done.stderr

        run(
            *user.split(), str(BINARIES / "initdb"), "--auth=trust", "--username=postgres", "--no-sync", f"{place}/data"
        )
        with (place / "data/postgresql.conf").open("a") as file:
            file.write(SERVER.format(place=place))
        run(*user.split(), str(BINARIES / "pg_ctl"), "-D", f"{place}/data", "-w", "-l", f"{place}/log/server", "start")
        run("pgbackrest", "--stanza=dwh", "stanza-create")
        run("pgbackrest", "--stanza=dwh", "--type=full", "backup")
        yield SimpleNamespace(
            query=query,
            point=lambda name: point.make(SimpleNamespace(params=given | {"name": name, "timeout": 60})),
            plan=lambda to, **more: plan.planned(SimpleNamespace(params=given | more | {"to": to})),
            restore=lambda planned: restore.restore(
                given
                | {
                    "unit": "any",
                    "directory": f"{place}/data",
                    "timeout": 120,
                    "arguments": planned["plan"]["arguments"],
                }
            ),
            Failed=restore.Failed,
            Refused=utils.Refused,
        )
        subprocess.run([f"{place}/bin/systemctl", "stop"], check=True)
    shutil.rmtree(place)


def test_there_and_back_over_timelines(cluster):
    """A named point, a moment, a timeline that was left, a moment after which nothing happened, the end."""
    cluster.query("create table kept (i int)")
    cluster.query("insert into kept values (1)")
    point = cluster.point("one")
    assert point["changed"] and point["point"]["timeline"] == 1
    assert cluster.point("one") == {"changed": False, "point": point["point"]}
    moment = datetime.now(UTC).isoformat()
    time.sleep(0.2)
    cluster.query("insert into kept values (2)")
    cluster.point("before")

    assert cluster.restore(cluster.plan("name:one"))["timeline"] == 2
    assert cluster.query("table kept") == [1]
    cluster.query("insert into kept values (3)")
    cluster.point("three")

    # The moment is of the line that was left; today's has the state from which it went on.
    assert cluster.restore(cluster.plan(moment))["timeline"] == 3
    assert cluster.query("table kept") == [1]

    assert cluster.restore(cluster.plan("name:before"))["timeline"] == 4
    assert cluster.query("table kept") == [1, 2], "what the first restore took back"

    cluster.point("end")
    with pytest.raises(cluster.Failed, match="recovery ended before configured recovery target was reached"):
        cluster.restore(cluster.plan(datetime.now(UTC).isoformat()))
    planned = cluster.plan("latest")
    assert (planned["up"], planned["lost"]) == (False, None)
    cluster.restore(planned)
    assert cluster.query("table kept") == [1, 2]


def test_one_restore_at_a_time(tmp_path, monkeypatch):
    module = load("ansible/plugins/modules/pgbackrest_restore.py", "tested_alone")
    monkeypatch.setattr(module, "LOCK", f"{tmp_path}/{{stanza}}")
    tried = []

    def run(*command, **_):
        with open(tmp_path / "dwh") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tried.append(command)
        raise module.Failed("as far as it goes")

    monkeypatch.setattr(module, "run", run)
    for _ in range(2):  # the first lets go of it
        with pytest.raises(module.Failed, match="as far as it goes"):
            module.restore({"stanza": "dwh", "unit": "any"})
    assert len(tried) == 2


def test_a_timeline_that_never_was(cluster):
    with pytest.raises(cluster.Refused, match="no timeline 77"):
        cluster.plan("latest", timeline=77)
