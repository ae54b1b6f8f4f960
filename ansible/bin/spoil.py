#!/usr/bin/env python3
"""Makes a bad release out of a checkout, for drills and tests.

    spoil.py CHECKOUT FAULT

The checkout gets what only the newer release has (a unit, a DAG, a flow, another version of a flow, a migration), and the fault:

    corrupting-job       the loader writes a wrong value where no audit looks
    dropping-flow        the flow leaves out a tenth of a table's rows
    failing-dag          the DAG fails in its first task
    breaking-migration   the schema loses a column, without a way back

Nothing is committed.
"""

import json
import sys
from pathlib import Path

PORT = 9459
PROBE_DAG = '''"""A DAG that only the newer release has."""

from datetime import datetime

from airflow.sdk import dag, task


@dag(dag_id="probe", schedule=None, start_date=datetime(2013, 1, 1), tags=["probe"], default_args={"owner": "etl"})
def probe():
    """Does nothing."""

    @task
    def nothing() -> None:
        """Nothing."""

    nothing()


probe()
'''
PROBE_SERVICE = """[Unit]
Description=Only the newer release has it

[Service]
Type=oneshot
DynamicUser=true
ExecStart=/usr/bin/test -f @RELEASE@/RELEASE
"""
PROBE_TIMER = """[Unit]
Description=Only the newer release has it

[Timer]
OnCalendar=hourly

[Install]
WantedBy=timers.target
"""


def replaced(path: Path, old: str, new: str) -> None:
    """Replace the only occurrence of a text in a file; LookupError when there is not exactly one."""
    text = path.read_text()
    if text.count(old) != 1:
        raise LookupError(f"{path} has {text.count(old)} times, not once: {old.strip()}")
    path.write_text(text.replace(old, new))


def add_flow(root: Path, name: str, port: int = PORT, parameters: tuple[str, ...] = ()) -> None:
    """A copy of the flights' flow under another name and port, with more parameters."""
    flows = root / "jobs/extract/nifi/flows"
    definition = json.loads((flows / "flights.json").read_text())
    contents = definition["flowContents"]
    contents["name"] = contents["parameterContextName"] = name
    definition["parameterContexts"] = {name: definition["parameterContexts"]["flights"] | {"name": name}}
    for processor in contents["processors"]:
        if processor["type"].endswith(".HandleHttpRequest"):
            processor["properties"]["Listening Port"] = str(port)
    for parameter in parameters:
        entry = {"name": parameter, "sensitive": False, "description": "", "value": None}
        definition["parameterContexts"][name]["parameters"].append(entry)
    (flows / f"{name}.json").write_text(json.dumps(definition))


def add_migration(root: Path, name: str, up: str, down: str | None = None) -> None:
    """The next level of the schema."""
    migrations = root / "jobs/load/migrations"
    level = len(list(migrations.glob("*.up.sql"))) + 1
    (migrations / f"{level:04d}_{name}.up.sql").write_text(up)
    if down is not None:
        (migrations / f"{level:04d}_{name}.down.sql").write_text(down)


def differ(root: Path) -> None:
    """A unit, a DAG, a flow, another version of a flow, and a migration more."""
    (root / "jobs/units").mkdir(exist_ok=True)
    for name, content in {"etl-probe.service": PROBE_SERVICE, "etl-probe.timer": PROBE_TIMER}.items():
        (root / "jobs/units" / name).write_text(content)
    (root / "dags/probe.py").write_text(PROBE_DAG)
    flights = root / "jobs/extract/nifi/flows/flights.json"
    definition = json.loads(flights.read_text())
    definition["flowContents"]["comments"] += " Changed."
    flights.write_text(json.dumps(definition))
    add_flow(root, "probe")
    add_migration(
        root,
        "probe",
        "create table dwh.probe (i integer primary key);\n",
        "-- loses: dwh.probe\ndrop table dwh.probe;\n",
    )


def corrupting_job(root: Path) -> None:
    """Every air time is 0 once it is staged."""
    analyze = '        cursor.execute(sql.SQL("analyze {}").format(staged))\n'
    spoil = '        if name == "fact_flight":\n            cursor.execute(sql.SQL("update {} set air_time_minutes = 0").format(staged))\n'
    replaced(root / "jobs/load/staging.py", analyze, spoil + analyze)


def dropping_flow(root: Path) -> None:
    """The query for the flights of July to December leaves out a tenth of them."""
    flow = root / "jobs/extract/nifi/flows/flights.json"
    replaced(flow, "sched_dep < ? order by id", "sched_dep < ? and id % 10 <> 0 order by id")


def failing_dag(root: Path) -> None:
    """The first task of every pipeline fails."""
    doc = '            """Open the run in the ledger; returns what the Spark applications are told about it."""\n'
    fail = "            from airflow.sdk.exceptions import AirflowFailException\n\n"
    fail += '            raise AirflowFailException("a bad release")\n'
    replaced(root / "dags/common/pipeline.py", doc, doc + fail)


def breaking_migration(root: Path) -> None:
    """A published column is gone, and nothing says how it comes back."""
    add_migration(root, "breaks", "alter table dwh.dim_plane drop column seats;\n")


FAULTS = {
    "corrupting-job": corrupting_job,
    "dropping-flow": dropping_flow,
    "failing-dag": failing_dag,
    "breaking-migration": breaking_migration,
}


def main(arguments: list[str]) -> int:
    """Command line; returns the exit status."""
    if len(arguments) != 2 or arguments[1] not in FAULTS:
        print(__doc__, file=sys.stderr)
        return 2
    root = Path(arguments[0])
    try:
        differ(root)
        FAULTS[arguments[1]](root)
    except (LookupError, OSError) as error:
        print(f"spoil: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
