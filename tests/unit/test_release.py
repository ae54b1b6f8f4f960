"""Releases: their names, archives and the history of the DAG bundle."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATHS = ["jobs", "dags"]


def plugin(kind: str, name: str):
    spec = importlib.util.spec_from_file_location(f"{kind}_{name}", ROOT / f"ansible/plugins/{kind}/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


archive = plugin("modules", "release_archive")
bundle = plugin("modules", "git_bundle")
dag_run = plugin("modules", "airflow_dag_run")
progress = plugin("action", "airflow_dag_run")


@pytest.fixture
def checkout(tmp_path):
    """A small repository with jobs, a DAG, and something that is not shipped."""
    root = tmp_path / "checkout"
    for name, content in {"jobs/a.py": "A = 1\n", "dags/d.py": "D = 1\n", "README.md": "no\n"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / ".gitignore").write_text("__pycache__/\n")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", root, *command], check=True)
    return root


def identify(root: Path) -> str:
    return archive.release_id(root, PATHS, archive.shipped_files(root, PATHS))[0]


def test_a_clean_checkout_is_named_by_its_commit(checkout):
    commit = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert identify(checkout) == commit[:12]


def test_changes_elsewhere_do_not_change_the_name(checkout):
    before = identify(checkout)
    (checkout / "README.md").write_text("changed\n")
    assert identify(checkout) == before


def test_uncommitted_changes_are_part_of_the_name(checkout):
    clean = identify(checkout)
    (checkout / "jobs/a.py").write_text("A = 2\n")
    changed = identify(checkout)
    (checkout / "jobs/new.py").write_text("N = 1\n")
    added = identify(checkout)
    assert len({clean, changed, added}) == 3
    assert changed.startswith(f"{clean}-") and len(changed) == 21
    (checkout / "jobs/new.py").unlink()
    assert identify(checkout) == changed


def test_ignored_files_are_not_shipped(checkout):
    (checkout / "jobs/__pycache__").mkdir()
    (checkout / "jobs/__pycache__/a.pyc").write_text("x")
    assert archive.shipped_files(checkout, PATHS) == ["dags/d.py", "jobs/a.py"]


def test_a_deleted_file_is_not_shipped(checkout):
    (checkout / "dags/d.py").unlink()
    assert archive.shipped_files(checkout, PATHS) == ["jobs/a.py"]


def test_the_archive_ends_with_the_release_file(checkout, tmp_path):
    files = archive.shipped_files(checkout, PATHS)
    target = tmp_path / "out/release.tar.gz"
    archive.pack(checkout, files, {"id": "x", "commit": "y", "created": "z"}, target)
    with tarfile.open(target) as packed:
        assert packed.getnames() == ["dags/d.py", "jobs/a.py", "jobs.zip", "RELEASE"]
        assert json.load(packed.extractfile("RELEASE"))["id"] == "x"
        with zipfile.ZipFile(packed.extractfile("jobs.zip")) as jobs:
            assert jobs.namelist() == ["jobs/a.py"]
    assert list(target.parent.iterdir()) == [target]


def test_the_same_files_give_the_same_bytes(checkout):
    files = archive.shipped_files(checkout, PATHS)
    assert archive.jobs_zip(checkout, files) == archive.jobs_zip(checkout, files)


def bundle_run(repository: Path, source: Path | None = None, check: bool = False) -> dict:
    parameters = {"repository": str(repository), "source": source and str(source), "branch": "main", "message": "m"}
    return bundle.run(SimpleNamespace(params=parameters, check_mode=check))


def test_the_bundle_begins_empty_and_only_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    repository = tmp_path / "dags.git"
    assert bundle_run(repository, check=True) == {"changed": True, "commit": ""}
    assert not repository.exists()
    first = bundle_run(repository)
    assert first["changed"] and len(first["commit"]) == 40
    assert bundle_run(repository) == {"changed": False, "commit": first["commit"]}


def test_each_release_is_one_commit_on_top(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    repository, one, two = tmp_path / "dags.git", tmp_path / "one", tmp_path / "two"
    for directory in (one, two):
        (directory / "dags").mkdir(parents=True)
        (directory / "dags/d.py").write_text(f"# {directory.name}\n")
    bundle_run(repository)
    first = bundle_run(repository, one)
    assert first["changed"]
    assert bundle_run(repository, one) == {"changed": False, "commit": first["commit"]}
    assert bundle_run(repository, two, check=True) == {"changed": True, "commit": first["commit"]}
    second = bundle_run(repository, two)
    back = bundle_run(repository, one)
    git = bundle.Bundle(str(repository)).git
    assert git("rev-list", "--count", "main") == "4"
    assert git("show", f"{second['commit']}:dags/d.py") == "# two"
    assert git("show", f"{back['commit']}:dags/d.py") == "# one"


def test_git_says_what_is_wrong(tmp_path):
    with pytest.raises(RuntimeError, match="not a git repository"):
        archive.git(tmp_path, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("states", "again", "chosen"),
    [
        ([], False, ("b", True)),
        (["success"], False, ("b", False)),
        (["success"], True, ("b.2", True)),
        (["running"], True, ("b", False)),
        (["failed"], False, ("b.2", True)),
        (["failed", "queued"], False, ("b.2", False)),
        (["failed", "failed"], False, ("b.3", True)),
    ],
)
def test_which_run_an_interval_gets(states, again, chosen):
    runs = [{"dag_run_id": "b" if n == 1 else f"b.{n}", "state": state} for n, state in enumerate(states, 1)]
    assert dag_run.choose(runs, "b", again) == chosen


def test_progress_shows_each_change_once():
    tasks = [
        {"task_id": "a", "state": "success", "try_number": 1, "seconds": 2.0},
        {"task_id": "b", "state": "scheduled", "try_number": 0, "seconds": 0},
    ]
    seen: dict = {}
    assert [task["task_id"] for task in progress.changes(seen, tasks)] == ["a"]
    assert progress.changes(seen, tasks) == []
    tasks[1]["state"] = "running"
    assert [task["task_id"] for task in progress.changes(seen, tasks)] == ["b"]
    assert progress.line(tasks[0], 75, 1, 2) == "    1:15   1/2  a                            success          2 s"
