"""Plans and executions of an undo on a real server: what is named, what is refused, what readers see afterwards."""

import json
import random
from dataclasses import replace
from datetime import date, datetime

import pytest
from botocore.exceptions import EndpointConnectionError
from test_load_publish import APR, FEB, JAN, MAR, content, go
from warehouse_kit import flights

from jobs.load import journal, ledger
from jobs.load.publish import PublishRefused
from jobs.rollback import undo
from jobs.rollback.undo import Selection


def three_runs(warehouse):
    """r1 publishes January and February, r2 a part of both again, r3 March."""
    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-03-01"), flights(JAN, MAR))
    states = [content(warehouse)]
    go(warehouse, warehouse.run("r2", "2013-01-10", "2013-02-10"), flights(date(2013, 1, 10), date(2013, 2, 10), 60, 1))
    states.append(content(warehouse))
    go(warehouse, warehouse.run("r3", "2013-03-01", "2013-04-01"), flights(MAR, APR))
    return states


def interval(start: str, end: str) -> Selection:
    return Selection(
        pipeline="flights", interval_from=datetime.fromisoformat(start), interval_to=datetime.fromisoformat(end)
    )


def ids(plan) -> list[str]:
    return [run["run_id"] for run in plan.runs]


def facts(state):
    return {name: state[name] for name in ("fact_flight", "agg_delay_day")}


def test_a_plan_says_what_readers_will_see_and_changes_nothing(warehouse):
    three_runs(warehouse)
    before = content(warehouse)
    plan = undo.plan(warehouse.conn, Selection(("r2",)))
    assert plan.executable and ids(plan) == ["r2"]
    seen = [
        (p["partition"], p["version_now"], p["rows_now"], p["version_after"], p["rows_after"], p["run_after"])
        for p in plan.partitions
    ]
    assert seen == [
        ("fact_flight_201301", 2, 40, 1, 62, "r1"),
        ("fact_flight_201302", 2, 47, 1, 56, "r1"),
    ]
    assert (plan.rows_now, plan.rows_after) == (87, 118)
    assert ("agg_delay_day", "restored") in [(each["table"], each["state"]) for each in plan.dependants]
    assert content(warehouse) == before
    assert warehouse.rows("select count(*) from etl.undo") == [(0,)]


def test_executed_it_restores_and_is_recorded_once(warehouse):
    states = three_runs(warehouse)
    go(warehouse, warehouse.run("r4", "2013-01-10", "2013-02-10"), flights(date(2013, 1, 10), date(2013, 2, 10), 90, 2))
    done = undo.execute(warehouse.conn, Selection(("r4",)), by="me", reason="wrong delays")
    assert [version["version"] for version in done["undone"]] == [2, 2]
    undo.execute(warehouse.conn, Selection(("r3",)), by="me")
    assert facts(content(warehouse)) == facts(states[1])
    again = undo.execute(warehouse.conn, Selection(("r4",)), by="me")
    assert (again["undone"], again["already_undone"], again["executable"]) == ([], ["r4"], False)
    rows = warehouse.rows("select requested_by, reason, run_ids, plan ->> 'rows_now' from etl.undo", user="etl_read")
    assert rows[0] == ("me", "wrong delays", ["r4"], str(done["rows_now"])) and len(rows) == 2


def test_later_runs_refuse_or_cascade(warehouse):
    three_runs(warehouse)
    plan = undo.plan(warehouse.conn, Selection(("r1",)))
    assert [(each["run_id"], each["later_run"]) for each in plan.refusals] == [("r1", "r2")]
    with pytest.raises(PublishRefused, match="run r2 published later on top of it"):
        undo.execute(warehouse.conn, Selection(("r1",)), by="me")
    plan = undo.plan(warehouse.conn, Selection(("r1",)), cascade=True)
    assert [(run["run_id"], run["chosen"]) for run in plan.runs] == [("r2", False), ("r1", True)]
    assert {(p["partition"], p["version_after"], p["rows_after"]) for p in plan.partitions} == {
        ("fact_flight_201301", None, 0),
        ("fact_flight_201302", None, 0),
    }
    undo.execute(warehouse.conn, Selection(("r1",)), cascade=True, by="me")
    assert warehouse.rows("select min(flight_date), count(*) from dwh.fact_flight") == [(MAR, 62)]
    assert warehouse.rows("select state from etl.run order by run_id") == [("undone",), ("undone",), ("published",)]


def test_an_interval_names_the_runs_that_readers_see_in_it(warehouse):
    three_runs(warehouse)
    assert ids(undo.plan(warehouse.conn, interval("2013-01-10", "2013-02-10"))) == ["r2"]
    assert ids(undo.plan(warehouse.conn, interval("2013-03-01", "2013-05-01"))) == ["r3"]
    plan = undo.plan(warehouse.conn, interval("2013-01-12", "2013-01-13"))
    assert "beyond the interval" in plan.refusals[0]["reason"] and not plan.executable
    assert undo.plan(warehouse.conn, interval("2013-01-12", "2013-01-13"), cascade=True).executable
    wide = undo.plan(warehouse.conn, interval("2013-01-01", "2014-01-01"))
    assert ids(wide) == ["r3", "r2", "r1"] and wide.executable
    assert ids(undo.plan(warehouse.conn, interval("2014-01-01", "2015-01-01"))) == []


def test_every_run_of_newer_releases(warehouse):
    states = three_runs(warehouse)
    run = ledger.Run("r9", "manual__r9", "flights", "release2", 1, "2013-01-01", "2013-02-01")
    go(warehouse, run, flights(JAN, FEB, delay=9))
    assert ids(undo.plan(warehouse.conn, Selection(newer_than="release1"))) == ["r9"]
    assert ids(undo.plan(warehouse.conn, Selection(newer_than="release2"))) == []
    with pytest.raises(LookupError, match="no release release7"):
        undo.plan(warehouse.conn, Selection(newer_than="release7"))
    undo.execute(warehouse.conn, Selection(newer_than="release1"), by="me")
    undo.execute(warehouse.conn, Selection(("r3",)), by="me")
    assert facts(content(warehouse)) == facts(states[1])


def test_what_stands_on_rows_that_go_back_is_marked_stale_until_published_again(warehouse):
    def plane(year):
        return {"dim_plane": [{"tailnum": "N1", "year": year, "known": True}]}

    go(warehouse, warehouse.run("r1", "2013-01-01", "2013-02-01"), flights(JAN, FEB), plane(1999))
    go(warehouse, warehouse.run("r2", "2013-01-01", "2013-02-01"), flights(JAN, FEB), plane(2000))
    go(warehouse, warehouse.run("r3", "2013-02-01", "2013-03-01"), flights(FEB, MAR), plane(2000))
    plan = undo.plan(warehouse.conn, Selection(("r2",)))
    stale = [each for each in plan.dependants if each["state"] == "stale"]
    assert [(each["table"], each["run_id"]) for each in stale] == [("fact_flight", "r3")]
    undo.execute(warehouse.conn, Selection(("r2",)), by="me")
    marks = "select table_name, interval_from::date, interval_to::date from etl.v_stale"
    assert warehouse.rows(marks, user="etl_read") == [("fact_flight", FEB, MAR)]
    go(warehouse, warehouse.run("r4", "2013-02-01", "2013-03-01"), flights(FEB, MAR), plane(1999))
    assert warehouse.rows(marks) == []


def test_lineage_tells_what_another_pipeline_made_from_it(warehouse):
    three_runs(warehouse)
    mart = ledger.Run("m1", "manual__m1", "mart", "release1", 1, "2013-01-01", "2013-02-01")
    ledger.start_run(warehouse.conn, mart)
    with warehouse.connect("etl_owner") as conn:
        conn.execute("insert into etl.publication (run_id, attempt) values ('m1', 1)")
        for key, run_id, way, name in (
            ("a", "r2", "output", "dwh.dwh.fact_flight"),
            ("b", "m1", "input", "dwh.dwh.fact_flight"),
            ("b", "m1", "output", "dwh.dwh.agg_mart"),
        ):
            conn.execute(
                "insert into etl.lineage_event (event_key, event_time, event_type, job_namespace, job_name, run_uuid, run_id, event)"
                " values (%s, clock_timestamp(), 'COMPLETE', 'etl', 'job', gen_random_uuid(), %s, '{}') on conflict do nothing",
                (key, run_id),
            )
            conn.execute(
                "insert into etl.lineage_dataset (event_key, direction, namespace, name) values (%s, %s, 'postgres://h:5432', %s)",
                (key, way, name),
            )
    stale = [each for each in undo.plan(warehouse.conn, Selection(("r2",))).dependants if each["state"] == "stale"]
    assert [(each["table"], each["run_id"], each["pipeline"]) for each in stale] == [("agg_mart", "m1", "mart")]
    undo.execute(warehouse.conn, Selection(("r2",)), by="me")
    assert warehouse.rows("select table_name, pipeline from etl.v_stale") == [("agg_mart", "mart")]


def test_what_is_no_longer_kept_is_refused_in_the_plan(warehouse):
    for number in range(6):
        go(warehouse, warehouse.run(f"r{number}", "2013-01-01", "2013-02-01"), flights(JAN, FEB, delay=number))
    plan = undo.plan(warehouse.conn, Selection(("r1",)), cascade=True)
    assert not plan.executable
    assert any("no longer kept" in each["reason"] for each in plan.refusals)


def test_a_run_that_published_nothing_and_one_that_is_unknown(warehouse):
    ledger.start_run(warehouse.conn, warehouse.run("r1", "2013-01-01", "2013-02-01"))
    assert undo.plan(warehouse.conn, Selection(("r1",))).refusals[0]["reason"] == "it has published nothing"
    with pytest.raises(LookupError, match="no run r2"):
        undo.plan(warehouse.conn, Selection(("r2",)))


def test_it_does_what_was_agreed_to_or_nothing(warehouse):
    three_runs(warehouse)
    before = content(warehouse)
    with pytest.raises(PublishRefused, match="the plan names runs r3 now, not r2: plan again"):
        undo.execute(warehouse.conn, Selection(("r3",)), by="me", expected=["r2"])
    assert content(warehouse) == before


def test_a_running_run_of_the_same_days_is_named(warehouse):
    three_runs(warehouse)
    ledger.start_run(warehouse.conn, warehouse.run("r5", "2013-01-20", "2013-01-21"))
    assert undo.plan(warehouse.conn, Selection(("r2",))).warnings == ["run r5 of the same days is still running"]


def test_the_text_for_people(warehouse):
    three_runs(warehouse)
    text = undo.text(undo.plan(warehouse.conn, Selection(("r1",)), cascade=True).as_dict())
    assert "Takes back 2 run(s)" in text and "| r2 |" in text and "nothing" in text
    assert "**Refused**: run r1" in undo.text(undo.plan(warehouse.conn, Selection(("r1",))).as_dict())


@pytest.mark.parametrize("seed", [1, 2])
def test_random_undos_equal_the_runs_that_are_left(warehouse, seed):
    """Runs over random days of a quarter, some taken back with what stands on them: as if only the others had ever been."""
    generator = random.Random(seed)
    kept = {name: replace(table, history=99) for name, table in warehouse.declaration.publish.items()}
    warehouse.declaration = replace(warehouse.declaration, publish=kept)
    days = [date.fromordinal(JAN.toordinal() + offset) for offset in range(90)]

    def publish(number, start, end):
        plane = [{"tailnum": "N1", "year": 2000 + number, "known": True}]
        go(
            warehouse,
            warehouse.run(f"r{number}", str(start), str(end)),
            flights(start, end, delay=number),
            {"dim_plane": plane},
        )
        return start, end

    left = {0: publish(0, days[0], days[-1])}
    for number in range(1, 10):
        left[number] = publish(number, *sorted(generator.sample(days, 2)))
        if generator.random() < 0.5:
            chosen = generator.choice([run for run in left if run])
            done = undo.execute(warehouse.conn, Selection((f"r{chosen}",)), cascade=True, by="me")
            gone = {int(run["run_id"][1:]) for run in done["runs"]}
            assert chosen in gone and 0 not in gone
            left = {run: days for run, days in left.items() if run not in gone}
        expected = {}
        for run, (start, end) in left.items():
            expected |= {day: run for day in days if start <= day < end}
        assert dict(warehouse.rows("select distinct flight_date, dep_delay_minutes from dwh.fact_flight")) == expected
        delays = warehouse.rows("select flight_date, mean_dep_delay_minutes from dwh.agg_delay_day")
        assert {day: int(delay) for day, delay in delays} == expected
        assert warehouse.rows("select year from dwh.dim_plane where tailnum = 'N1'") == [(2000 + max(left),)]


@pytest.mark.parametrize(
    "wrong",
    [{}, {"run_ids": ("r",), "newer_than": "x"}, {"pipeline": "flights"}],
)
def test_a_selection_is_one_of_three(wrong):
    with pytest.raises(ValueError):
        Selection(**wrong)


def test_command_line(warehouse, monkeypatch, capsys):
    three_runs(warehouse)
    for name, value in {
        "HOST": str(warehouse._server.directory),
        "DATABASE": warehouse.database,
        "USER": "etl_load",
    }.items():
        monkeypatch.setenv(f"PG{name}", value)
    monkeypatch.setattr("boto3.client", lambda kind: warehouse.lake)

    def run(*arguments):
        return undo.main(list(arguments)), *capsys.readouterr()

    status, out, error = run("execute", "--run", "r1", "--by", "me")
    assert status == 1 and "undo: run r1: run r2 published later" in error
    assert json.loads(out)["executable"] is False
    status, out, _ = run("execute", "--run", "r2", "--by", "me")
    assert status == 0 and len(json.loads(out)["undone"]) == 2
    journaled = dict(warehouse.lake.objects)
    assert [key.split("/")[1] for bucket, key in journaled if key.endswith("-undone.json")] == ["r2"]
    status, out, _ = run("execute", "--run", "r2", "--by", "me")
    assert status == 0 and json.loads(out)["undone"] == [] and warehouse.lake.objects == journaled
    assert "no run r9" in run("plan", "--run", "r9", "--by", "me")[2]
    with pytest.raises(SystemExit, match="2"):
        run("plan", "--pipeline", "flights", "--by", "me")


def test_without_the_journal_it_says_so_and_is_repeated(warehouse, monkeypatch, capsys):
    three_runs(warehouse)
    for name, value in {
        "HOST": str(warehouse._server.directory),
        "DATABASE": warehouse.database,
        "USER": "etl_load",
    }.items():
        monkeypatch.setenv(f"PG{name}", value)

    def away(**arguments):
        raise EndpointConnectionError(endpoint_url="https://lake1")

    monkeypatch.setattr("boto3.client", lambda kind: warehouse.lake)
    with monkeypatch.context() as patch:
        patch.setattr(warehouse.lake, "put_object", away)
        assert undo.main(["execute", "--run", "r2", "--by", "me"]) == 1
    told = capsys.readouterr().err
    assert "not entered in the journal of publications" in told and told.endswith("repeat it with --run r2\n")
    assert undo.main(["execute", "--run", "r2", "--by", "me"]) == 0
    assert [event["event"] for event in journal.read(warehouse.lake, "curated") if event["run_id"] == "r2"] == [
        "undone"
    ]
