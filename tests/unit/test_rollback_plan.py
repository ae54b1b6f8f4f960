"""The plan of a rollback from facts alone, and its journal."""

from __future__ import annotations

import json

import pytest

from jobs.rollback import journal as journals
from jobs.rollback.journal import STEPS, Journal
from jobs.rollback.plan import Facts, make, newer, text

ONE, TWO, THREE = "111111111111", "222222222222", "333333333333"
POINT = {"name": "before-2", "lsn": "0/3000000", "time": "2026-11-24T20:00:00+00:00"}


def manifest(release, hour, serial=1, **changes):
    """The manifest of a release deployed at an hour of the day."""
    number = int(release[0])
    return {
        "release": release,
        "commit": release * 3,
        "serial": serial,
        "state": "good",
        "because": None,
        "reason": None,
        "environment": "local",
        "deployed_at": f"2026-11-24T{hour:02d}:00:00+00:00",
        "since": {"time": f"2026-11-24T{hour:02d}:00:00+00:00", "restore_point": {"name": f"before-{number}"}},
        "artifacts": {"nifi": {"sha256": "a"}},
        "flows": {"flights": f"digest {number}"},
        "jobs": f"jobs {number}",
        "migration": 3 + number,
        "terraform": None,
        "bundle_version": release,
        "owned": {"dags": ["etl_pipeline"], "flows": ["flights"], "units": [], "files": []},
    } | changes


HISTORY = [
    manifest(ONE, 19),
    manifest(
        TWO,
        20,
        flows={"flights": "digest 2", "orders": "digest"},
        owned={
            "dags": ["etl_pipeline", "orders"],
            "flows": ["flights", "orders"],
            "units": ["etl-x.timer"],
            "files": [],
        },
    ),
]
UNDO = {
    "runs": [{"run_id": "r2"}],
    "partitions": [{"partition": "fact_flight_201301", "table": "fact_flight", "version_after": 1}],
    "dependants": [{"table": "agg_delay_day", "state": "restored"}],
    "rows_now": 27004,
    "rows_after": 27000,
    "refusals": [],
}


def facts(**changes):
    given = {
        "manifests": HISTORY,
        "current": TWO,
        "environment": "local",
        "level": 5,
        "now": "2026-11-24T21:30:00+00:00",
    }
    return Facts(**given | changes)


def layers(plan):
    return {each["layer"]: each["what"] for each in plan["layers"]}


def test_code_alone_says_what_every_layer_becomes_and_that_nothing_is_lost():
    plan = make(facts(down={"applied": ["0005_x"]}, since=(2, 54000)), ONE, "keep")
    assert plan["refused"] == [] and plan["method"] is None and plan["releases"] == [TWO]
    assert layers(plan)["NiFi flows"] == "removes orders; replaces flights"
    assert layers(plan)["DAGs"] == "removes orders"
    assert layers(plan)["units"] == "removes etl-x.timer"
    assert layers(plan)["schema"] == "level 5 → 4 (takes back 0005_x)"
    assert "54000 rows" in layers(plan)["published data"]
    assert not any(plan["lost"].values())
    assert "Nothing that is published would be lost" in text(plan)


def test_data_go_back_by_partitions_when_that_suffices():
    plan = make(facts(undo=UNDO, since=(1, 27004)), ONE, "restore")
    assert plan["method"] == "undo" and plan["runs"] == ["r2"]
    assert plan["lost"] == {"runs": 1, "rows": 27004, "objects": 0, "minutes": 90}
    assert "27004 published rows of 1 runs" in text(plan) and "last 90 minutes" in text(plan)


def test_nothing_published_needs_no_means():
    plan = make(facts(), ONE, "restore")
    assert plan["method"] is None and not plan["refused"]
    assert layers(plan)["published data"].endswith("nothing to take back")


def test_what_cannot_be_swapped_back_is_restored_from_the_log():
    undo = UNDO | {"refusals": [{"run_id": "r2", "reason": "the rows that it replaced are no longer kept"}]}
    plan = make(facts(undo=undo, since=(3, 81000), restorable=True), ONE, "restore")
    assert plan["method"] == "restore" and plan["refused"] == []
    assert plan["lost"] == {"runs": 3, "rows": 81000, "objects": 0, "minutes": 90}
    assert "before-2" in layers(plan)["published data"]
    assert any("no longer kept" in note for note in plan["notes"])


def test_a_restore_leads_to_before_a_deployment_that_was_killed():
    """The one that was run again has its restore point: what came between the two goes too, and is told."""
    point = {"name": "before-2", "time": "2026-11-24T18:00:00.5+00:00"}
    manifests = [HISTORY[0], HISTORY[1] | {"since": HISTORY[1]["since"] | {"restore_point": point}}]
    down = {"refused": "0005_x has no way back (no down file)"}
    plan = make(facts(manifests=manifests, down=down, since=(3, 81000), restorable=True), ONE, "restore")
    assert plan["method"] == "restore" and plan["lost"]["minutes"] == 210
    late = facts(manifests=manifests, down=down, restorable=True, retention_days=1, now="2026-11-25T19:30:00+00:00")
    assert "is 1 days old: backups are kept 1 days" in make(late, ONE, "restore")["refused"][1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "this environment has no backups"),
        (
            {
                "restorable": True,
                "manifests": [HISTORY[0], HISTORY[1] | {"since": {"time": "2026-11-24T20:00:00+00:00"}}],
            },
            "without a restore point",
        ),
        (
            {"restorable": True, "retention_days": 14, "now": "2026-12-24T20:00:00+00:00"},
            "is 30 days old: backups are kept 14 days",
        ),
    ],
)
def test_without_any_means_it_is_refused_with_all_reasons(changes, reason):
    down = {"refused": "0005_x has no way back (no down file)"}
    plan = make(facts(down=down, **changes), ONE, "restore")
    assert plan["method"] is None
    assert plan["refused"][0] == "the schema cannot go down: 0005_x has no way back (no down file)"
    assert reason in plan["refused"][1]


def test_keeping_data_never_takes_data_back():
    plan = make(
        facts(down={"refused": "taking 0005_x back would lose 7 rows of dwh.other"}, restorable=True), ONE, "keep"
    )
    assert plan["method"] is None
    assert plan["refused"] == [
        "the schema cannot go down: taking 0005_x back would lose 7 rows of dwh.other; -e data=restore can take the data back too"
    ]


@pytest.mark.parametrize(
    ("table", "method"), [("dwh.fact_flight", "undo"), ("dwh.agg_delay_day", "undo"), ("dwh.other", "restore")]
)
def test_rows_that_go_back_anyway_do_not_keep_the_schema_up(table, method):
    down = {"refused": f"taking 0005_x back would lose 7 rows of {table}"}
    assert make(facts(down=down, undo=UNDO, restorable=True), ONE, "restore")["method"] == method


@pytest.mark.parametrize(
    ("changes", "target", "reason"),
    [
        ({}, THREE, f"release {THREE} is unknown.*Known are: {ONE}, {TWO}"),
        ({}, TWO, "in service already"),
        ({"current": None}, TWO, "in service already"),
        ({"current": THREE}, ONE, f"release {THREE} is in service, and its deployment did not come to its end"),
        ({"current": THREE}, TWO, f"release {THREE} is in service, and its deployment did not come to its end"),
        ({"environment": "prod"}, ONE, "was deployed to local, this is prod"),
        ({"commit_known": False}, ONE, "is not in this checkout: fetch it"),
        (
            {"manifests": [manifest(ONE, 19, state="bad", because="rollback", reason="lost rows"), HISTORY[1]]},
            ONE,
            "marked bad .lost rows.",
        ),
    ],
)
def test_refusals_name_the_reason(changes, target, reason):
    import re

    plan = make(facts(**changes), target, "keep")
    assert len(plan["refused"]) == 1 and re.search(reason, plan["refused"][0]), plan["refused"]
    assert plan["refused"][0] in text(plan)


def test_force_goes_onto_a_bad_release():
    history = [manifest(ONE, 19, state="bad", because="rollback", reason="lost rows"), HISTORY[1]]
    assert make(facts(manifests=history), ONE, "keep", force=True)["refused"] == []


def test_newer_is_what_served_after_the_targets_last_deployment():
    again = manifest(ONE, 21, serial=2)
    failed = manifest(TWO, 22, serial=2, state="bad", because="deployment")
    history = [*HISTORY, again, failed, manifest(THREE, 23)]
    assert [one["release"] for one in newer(history, ONE)] == [THREE]
    assert [one["release"] for one in newer(history, TWO)] == [ONE, THREE]
    assert newer(history, THREE) == [] == newer(history, "444444444444")


def test_a_mark_does_not_make_a_release_served_again():
    marked = manifest(TWO, 20, serial=2, state="bad", because="rollback")
    assert [one["release"] for one in newer([*HISTORY, marked], ONE)] == [TWO]


def test_the_cut_is_the_moment_before_the_first_newer_release():
    plan = make(facts(manifests=[*HISTORY, manifest(THREE, 21)], current=THREE), ONE, "restore")
    assert plan["cut"]["time"] == "2026-11-24T20:00:00+00:00" and plan["releases"] == [TWO, THREE]


def test_objects_go_back_only_where_some_were_overwritten_or_deleted():
    summaries = {
        "raw": {"actions": {"replaced": 3, "restored": 4, "removed": 0}, "warnings": []},
        "curated": {"actions": {"replaced": 0, "restored": 0, "removed": 0}, "warnings": []},
    }
    plan = make(facts(rewind=summaries), ONE, "restore")
    assert plan["rewind"] == ["raw"] and plan["lost"]["objects"] == 3
    assert "3 overwritten and 4 deleted objects return" in layers(plan)["bucket raw"]
    assert make(facts(), ONE, "restore")["rewind"] == []


def test_component_versions_are_a_track_of_their_own():
    plan = make(facts(artifacts={"nifi": {"sha256": "b"}}), ONE, "keep")
    assert layers(plan)["components"] == "stay at their present versions (since then changed: nifi)"


def test_the_journal_goes_on_where_it_stopped(tmp_path):
    plan = make(facts(), ONE, "keep")
    journal = Journal.start(tmp_path, plan, "it lost rows")
    assert journal.left() == list(STEPS)
    journal.done("hold", paused=["etl_pipeline"])
    journal.done("evidence")
    again = Journal.open(tmp_path)
    assert again.content == journal.content and again.left() == list(STEPS[2:])
    assert again.content["notes"] == {"paused": ["etl_pipeline"]}
    first = again.content["done"]["hold"]
    again.done("hold")
    assert again.content["done"]["hold"] == first
    for step in STEPS[2:]:
        again.done(step)
    assert Journal.open(tmp_path) is None


def test_a_torn_write_leaves_the_former_journal(tmp_path, monkeypatch):
    journal = Journal.start(tmp_path, make(facts(), ONE, "keep"), "x")

    def torn(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr(journals.json, "dump", torn)
    with pytest.raises(OSError):
        journal.done("hold")
    monkeypatch.undo()
    assert Journal.open(tmp_path).left() == list(STEPS)
    assert json.loads(journal.path.read_text())["done"] == {}
