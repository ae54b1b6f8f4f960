"""Databases that are packed while a service writes to them."""

import importlib.util
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def module():
    spec = importlib.util.spec_from_file_location("sqlite_copies", ROOT / "ansible/plugins/modules/sqlite_copies.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture
def written(tmp_path):
    """A database whose rows are in its log alone, and that is open."""
    path = tmp_path / "service/state.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table t (i integer)")
        connection.execute("pragma wal_checkpoint(truncate)")
        connection.execute("insert into t values (1), (2)")
        path.chmod(0o640)
        yield path


def rows(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("select i from t").fetchall()


def test_a_copy_has_what_is_only_in_the_log(module, written, tmp_path):
    assert Path(f"{written}-wal").stat().st_size > 0
    alone = tmp_path / "alone.db"
    alone.write_bytes(written.read_bytes())
    assert rows(alone) == [], "the file by itself, as tar packs it, lacks them"
    copy = tmp_path / "copies/state.db"
    module.copy(written, copy)
    assert rows(copy) == [(1,), (2,)]
    assert copy.stat().st_mode == written.stat().st_mode and copy.stat().st_uid == written.stat().st_uid


def test_only_databases_are_copied(module, written, tmp_path):
    (written.parent / "thumbs.db").write_text("no database")
    (written.parent / "empty.db").touch()
    os.symlink(written, written.parent / "link.db")
    assert module.databases([str(tmp_path / "service"), str(tmp_path / "nowhere")]) == [written]
    assert module.databases([str(written)]) == [written]
