"""Which backup leads to a moment, which moments cannot be had, and what is measured: over answers as pgBackRest gives them."""

import importlib.util
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(path: str):
    spec = importlib.util.spec_from_file_location(f"tested_{Path(path).stem}", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


repository = load("ansible/plugins/module_utils/pgbackrest.py")
metrics = load("roles/pgbackrest/files/metrics.py")


def at(clock: str) -> int:
    return int(datetime.fromisoformat(f"2026-11-24T{clock}+00:00").timestamp())


def backup(label: str, kind: str, clock: str, lsn: str, segment: str, **more) -> dict:
    return {
        "label": label,
        "type": kind,
        "timestamp": {"start": at(clock) - 10, "stop": at(clock)},
        "lsn": {"start": lsn, "stop": lsn},
        "archive": {"start": segment, "stop": segment},
        "info": {"size": 1000, "delta": 10, "repository": {"size": 300, "delta": 100}},
        "error": False,
        "database": {"id": 1, "repo-key": 1},
    } | more


# A full backup, a differential one, then a restore to 0/6000000 began timeline 2, on which one more was made.
STANZA = {
    "name": "dwh",
    "status": {"code": 0, "message": "ok"},
    "db": [{"id": 1, "system-id": 7, "version": "17"}],
    "archive": [{"id": "17-1", "min": "000000010000000000000002", "max": "00000002000000000000000B"}],
    "backup": [
        backup("F1", "full", "10:00:00", "0/2000100", "000000010000000000000002"),
        backup(
            "D1",
            "diff",
            "11:00:00",
            "0/4000100",
            "000000010000000000000004",
            annotation={"release-1": "0/5000090 2026-11-24T11:30:00+00:00 1", "note": "made by hand"},
        ),
        backup("LOST", "incr", "11:50:00", "0/8000100", "000000010000000000000008"),
        backup("D2", "diff", "13:00:00", "0/A000100", "00000002000000000000000A"),
    ],
}
HISTORY = "1\t0/6000000\tbefore 2026-11-24 11:40:00+00\n"
LINE = repository.lineage(2, HISTORY)


def plan(to: str, line=LINE, now="14:00:00", written="0/B000028") -> dict:
    return repository.plan(STANZA, repository.target_of(to), line, at(now), written)


@pytest.mark.parametrize(
    ("to", "label"),
    [
        ("latest", "D2"),
        ("2026-11-24T13:30:00Z", "D2"),
        ("2026-11-24T13:00:00Z", "D1"),  # the backup ended at this very moment: it holds what came after
        ("2026-11-24T12:30:00", "D1"),  # between restore and backup: over the change of timelines
        ("2026-11-24T12:30:00+01:30", "F1"),
        ("lsn:0/A000100", "D2"),
        ("lsn:0/90000F8", "D1"),  # not LOST: its rows were taken back
        ("name:release-1", "D1"),
    ],
)
def test_the_newest_backup_on_the_way_is_chosen(to, label):
    assert plan(to)["backup"]["label"] == label


def test_arguments_name_backup_target_and_timeline():
    assert plan("latest")["arguments"] == ["--set=D2", "--target-timeline=2"]
    assert plan("2026-11-24T13:30:00Z")["arguments"] == [
        "--set=D2",
        "--type=time",
        "--target=2026-11-24 13:30:00+00:00",
        "--target-action=promote",
        "--target-timeline=2",
    ]
    found = plan("name:release-1")
    assert found["arguments"][1:3] == ["--type=name", "--target=release-1"]
    assert found["moment"] == "2026-11-24 11:30:00+00:00"


def test_a_timeline_that_was_left_can_be_gone_back_to():
    found = plan("lsn:0/9000028", line=repository.lineage(1))
    assert (found["backup"]["label"], found["timeline"]) == ("LOST", 1)


def test_the_timeline_is_the_points_own_else_the_newest():
    for to, timeline in {"name:release-1": 1, "latest": 2, "lsn:0/A000100": 2, "name:unknown": 2}.items():
        assert repository.timeline_for(STANZA, repository.target_of(to)) == timeline
    assert repository.timeline_for(STANZA, repository.target_of("latest"), 1) == 1


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("2026-11-24T09:59:59Z", "reach back to 2026-11-24 10:00:00"),
        ("2026-11-24T14:00:01Z", "is in the future"),
        ("lsn:0/1000028", "reach back to"),
        ("lsn:0/C000000", "ends before 0/C000000"),
        ("name:release-2", "there are: release-1"),
        ("yesterday", "none of: latest"),
        ("lsn:17", "no position"),
        ("name:a=b", "no name of a restore point"),
        ("latest:1", "none of: latest"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(to, why):
    with pytest.raises(repository.Refused, match=why):
        plan(to)


def test_of_a_cluster_that_is_down_the_archive_is_the_end():
    assert plan("lsn:0/BFFFFFF", written=None)["backup"]["label"] == "D2"
    with pytest.raises(repository.Refused, match="ends before"):
        plan("lsn:0/C000001", written=None)


def test_a_damaged_backup_leads_nowhere():
    stanza = STANZA | {"backup": [entry | {"error": True} for entry in STANZA["backup"]]}
    with pytest.raises(repository.Refused, match="no backup of dwh"):
        repository.plan(stanza, repository.target_of("latest"), LINE, at("14:00:00"))


def test_a_repository_without_backups():
    stanza = STANZA | {"backup": [], "archive": []}
    assert repository.newest_timeline(stanza) == 1
    with pytest.raises(repository.Refused, match="no backup of dwh"):
        repository.plan(stanza, repository.target_of("latest"), {1: float("inf")}, at("14:00:00"))


def test_positions_are_those_of_segments():
    assert repository.end_of("0000000100000001000000FF") == repository.position("2/0")
    assert repository.timeline_of("0000000A0000000100000003") == 10


def test_measurements():
    text = metrics.exposition(metrics.samples(STANZA))
    lines = text.splitlines()
    assert f'pgbackrest_last_backup_timestamp_seconds{{stanza="dwh",type="diff"}} {at("13:00:00")}' in lines
    assert f'pgbackrest_last_backup_timestamp_seconds{{stanza="dwh",type="full"}} {at("10:00:00")}' in lines
    assert 'pgbackrest_repository_bytes{stanza="dwh"} 400' in lines
    assert 'pgbackrest_last_backup_duration_seconds{stanza="dwh",type="incr"} 10' in lines
    assert f'pgbackrest_oldest_restore_timestamp_seconds{{stanza="dwh"}} {at("10:00:00")}' in lines
    assert text.count("# TYPE pgbackrest_backups gauge") == 1
    assert datetime.fromtimestamp(at("10:00:00"), UTC).hour == 10


def test_a_stanza_without_backups_is_measured_too():
    text = metrics.exposition(metrics.samples(STANZA | {"backup": [], "status": {"code": 2}}))
    assert 'pgbackrest_stanza_status{stanza="dwh"} 2' in text
    assert "pgbackrest_last_backup_timestamp_seconds{" not in text


def test_the_waiting_log_is_measured_while_the_repository_does_not_answer(tmp_path, monkeypatch):
    status = tmp_path / "clusters/dwh/pg_wal/archive_status"
    status.mkdir(parents=True)
    for number in range(3):
        (status / f"{number:024d}.ready").touch()
    (status / "000000010000000000000009.done").touch()
    monkeypatch.setattr(metrics.subprocess, "run", lambda *a, **k: pytest.fail("the repository was asked first"))
    with pytest.raises(pytest.fail.Exception):
        metrics.main(tmp_path, tmp_path / "clusters")
    assert 'pgbackrest_wal_waiting_files{stanza="dwh"} 3' in (tmp_path / "pgbackrest_wal.prom").read_text().splitlines()
    assert not (tmp_path / "pgbackrest.prom").exists()
