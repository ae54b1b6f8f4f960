"""Everything that takes part in a run, killed at its first, second, third ... step until a run survives.

ETL_CHAOS_STEPS=1,4 takes these steps only. The table of cases is kept in .cache/chaos.tsv.
"""

import os
import subprocess
import time
from dataclasses import dataclass
from itertools import count

import psycopg
import pytest

from tests import chaos
from tests.causes import sql
from tests.chaos import FAULTS, Airflow, Fault, Seen
from tests.deployed import ROOT

pytestmark = pytest.mark.chaos
INTERVAL = ("2013-02-01", "2013-03-01")
MONTH = {"partition": "fact_flight_201302", "start": INTERVAL[0], "end": INTERVAL[1]}
STEPS = [int(step) for step in os.environ.get("ETL_CHAOS_STEPS", "").split(",") if step]
MINUTES = 20  # after which a run is given up
COLUMNS = ("killed", "cases", "survived", "rows lost", "rows doubled", "mixes seen", "polls")


@dataclass(frozen=True)
class Case:
    """What came of a run in which something died, or nothing."""

    run_id: str
    state: str
    killed: list[str]
    seen: Seen


@pytest.fixture(scope="module")
def airflow(platform) -> Airflow:
    return Airflow(platform)


@pytest.fixture(scope="module")
def table(request):
    """Lines of the closing table, by fault."""
    found: dict[str, list[int]] = {}
    yield found
    lines = [COLUMNS, *((name, *map(str, numbers)) for name, numbers in found.items())]
    path = ROOT / ".cache/chaos.tsv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join("\t".join(line) + "\n" for line in lines))
    report = request.config.pluginmanager.getplugin("terminalreporter")
    report.ensure_newline()
    for line in lines:
        report.write_line(f"{line[0]:27}" + "".join(f"{cell:>14}" for cell in line[1:]))


@pytest.fixture(scope="module")
def run(platform, airflow):
    """Runs INTERVAL while a reader looks on, with a fault at one of its steps."""

    def go(*faults: tuple[Fault, int]) -> Case:
        pending, killed, armed = list(faults), [], None
        run_id = f"chaos_{time.time():.0f}"
        with chaos.reader(platform.environment.warehouse(), MONTH) as seen:
            airflow.start(run_id, *INTERVAL)
            deadline = time.monotonic() + MINUTES * 60
            while True:
                if pending and pending[0][0].statements and armed != pending[0]:
                    armed = pending[0]
                    chaos.plan(platform, *armed)
                state, tasks = airflow.look(run_id)
                ended = state in ("success", "failed")
                if pending and (
                    chaos.died(platform) if armed == pending[0] else not ended and kill(*pending[0], tasks)
                ):
                    fault, step = pending.pop(0)
                    killed.append(f"{fault} at step {step}")
                if ended:
                    return Case(run_id, f"{state}: {states(tasks)}", killed, seen)
                assert time.monotonic() < deadline, f"{run_id} has not ended after {MINUTES} minutes: {states(tasks)}"
                time.sleep(0.5)

    def kill(fault: Fault, step: int, tasks: list[dict]) -> bool:
        """Kill while the step's task runs, or the next one if that was too short; False while there is nothing to kill."""
        reached = [task for task in tasks if task["task_id"].startswith(fault.tasks)]
        running = [task for task in reached[step - 1 :] if task["state"] == "running"]
        if not running:
            return False
        command = fault.kill.replace("{task}", running[0]["id"])
        try:
            platform.run(platform.environment.hosts(fault.group)[0], command)
        except subprocess.CalledProcessError:
            return False
        return True

    return go


def states(tasks: list[dict]) -> dict[str, str]:
    """State and attempts of tasks."""
    return {task["task_id"]: f"{task['state']} ({task['try_number']})" for task in tasks}


@pytest.fixture(scope="module")
def undisturbed(run, warehouse) -> tuple[str, dict]:
    """A run in which nothing dies, and all that is published then."""
    case = run()
    assert case.state.startswith("success"), case.state
    return case.run_id, warehouse.contents()


def difference(warehouse, run_id: str) -> tuple[int, int]:
    """(rows lost, rows doubled) by the ledger's equation, over the sources of a run."""
    rows = warehouse.rows("select difference from etl.v_balance where run_id = %s", run_id)
    assert rows, f"{run_id} has no sources in the ledger"
    numbers = [row["difference"] for row in rows]
    assert None not in numbers, numbers
    return sum(max(number, 0) for number in numbers), -sum(min(number, 0) for number in numbers)


@pytest.fixture(scope="module")
def shim(platform):
    with chaos.statements_die(platform):
        yield


@pytest.fixture
def survives(undisturbed, run, warehouse, table):
    """Runs with faults and holds what came of it against the undisturbed run; returns what was killed."""

    def go(name: str, *faults: tuple[Fault, int]) -> list[str]:
        former = warehouse.one("select run_id from etl.v_published where partition_name = %s", MONTH["partition"])
        case = run(*faults)
        lost, doubled = difference(warehouse, case.run_id)
        same = warehouse.contents() == undisturbed[1]
        ledger = warehouse.one("select state, error from etl.run where run_id = %s", case.run_id)
        found = (1, case.state.startswith("success") and same, lost, doubled, len(case.seen.mixes), case.seen.polls)
        table[name] = [sum(pair) for pair in zip(table.get(name, [0] * len(found)), found, strict=True)]
        print(name, case, ledger)
        where = f"killed: {', '.join(case.killed) or 'nothing'}; {case.state}; {ledger}"
        assert case.state.startswith("success"), where
        assert ledger == {"state": "published", "error": None}, where
        assert same, f"other content than that of {undisturbed[0]}; {where}"
        assert (lost, doubled) == (0, 0), where
        assert case.seen.mixes == [], where
        assert case.seen.runs == [former["run_id"], case.run_id], f"the reader saw {case.seen.runs}; {where}"
        return case.killed

    return go


@pytest.mark.parametrize("fault", FAULTS.values(), ids=str)
def test_killed_at_every_step(fault, request, survives):
    if fault.statements:
        request.getfixturevalue("shim")
    killed = []
    for step in STEPS or count(1):
        now = survives(fault.name, (fault, step))
        killed += now
        if not now:
            break
    assert killed


# Tasks: start, six of extract, three of Spark, record, staging, audit, publish, finish.
ALL = (
    ("NiFi", 2),
    ("Airflow task", 4),
    ("Spark executor", 1),
    ("MinIO", 8),
    ("Spark driver", 2),
    ("Airflow scheduler", 10),
    ("PostgreSQL", 11),
    ("loader in COPY", 2),
    ("loader in the transaction", 10),
)


def test_all_of_them_in_one_run(shim, survives):
    killed = survives("each of them, in one run", *((FAULTS[name], step) for name, step in ALL))
    assert killed == [f"{name} at step {step}" for name, step in ALL]


def test_the_reader_sees_a_mix(platform, undisturbed):
    """The check above can fail: of one day the aggregates are another run's."""
    host, day = platform.environment.hosts("postgresql")[0], INTERVAL[0]
    change = "update dwh.agg_delay_day set run_id = '{}' where flight_date = '{}' and run_id = '{}'"
    run_id, parameters = undisturbed[0], platform.environment.warehouse()
    current = Seen()
    with psycopg.connect(**parameters) as connection:
        chaos.poll(connection, MONTH, current)
        assert current.mixes == []
        platform.run(host, sql("dwh", change.format("planted", day, current.runs[0])))
        try:
            chaos.poll(connection, MONTH, current)
        finally:
            platform.run(host, sql("dwh", change.format(current.runs[0], day, "planted")))
    assert {mix[1] for mix in current.mixes} == {"planted", current.runs[0]}, run_id


def test_the_balance_sees_a_lost_and_a_doubled_row(platform, undisturbed, warehouse):
    host, (run_id, _) = platform.environment.hosts("postgresql")[0], undisturbed
    change = (
        "update etl.run_published set row_count = row_count {} 1 where run_id = '{}' and table_name = 'fact_flight'"
    )
    assert difference(warehouse, run_id) == (0, 0)
    for sign, back, found in (("-", "+", (1, 0)), ("+", "-", (0, 1))):
        platform.run(host, sql("dwh", change.format(sign, run_id)))
        try:
            assert difference(warehouse, run_id) == found
        finally:
            platform.run(host, sql("dwh", change.format(back, run_id)))


def test_the_checksum_sees_one_changed_value(platform, undisturbed, warehouse):
    host, before = platform.environment.hosts("postgresql")[0], warehouse.contents()
    first = "select min(flight_id) from dwh.fact_flight where flight_date = '2013-02-01'"
    change = (
        "update dwh.fact_flight set distance_miles = distance_miles {} 1"
        f" where flight_date = '2013-02-01' and flight_id = ({first})"
    )
    platform.run(host, sql("dwh", change.format("+")))
    try:
        assert warehouse.contents() != before
    finally:
        platform.run(host, sql("dwh", change.format("-")))
    assert warehouse.contents() == before
