"""OpenLineage events of what a run does: extracts, Spark stages, publications.

They are made from what is sealed anyway (manifests, stage records, published versions), by the task that enters those in the
ledger and in its order: a task that dies makes them when it is repeated, and repeating it makes the same ones. Airflow's own
events come by the spool (jobs.lineage.spool).

Names follow OpenLineage's naming: `s3://<bucket>` and the key prefix, `postgres://<host>:<port>` and database.schema.table.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import attr
import psycopg
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    DatasetFacet,
    RunFacet,
    dataset_version_dataset,
    output_statistics_output_dataset,
    parent_run,
    schema_dataset,
)
from openlineage.client.serde import Serde

from jobs.declaration import Declaration, Table
from jobs.load.ledger import run_id_of

NAMESPACE = "etl-cloud"
PRODUCER = "https://etl-cloud.invalid/jobs/lineage"
SPACE = uuid.uuid5(uuid.NAMESPACE_URL, PRODUCER)


@attr.define
class PipelineRunFacet(RunFacet):
    """The pipeline run that a job belongs to, as the ledger has it (etl.run)."""

    run_id: str
    pipeline: str
    release: str
    interval_from: str
    interval_to: str

    @staticmethod
    def _get_schema() -> str:
        return f"{PRODUCER}/PipelineRunFacet"


@attr.define
class ObjectsFacet(DatasetFacet):
    """The objects of a dataset: key, version_id, bytes, rows, sha256; and the flow that put them there."""

    objects: list[dict[str, Any]]
    flow_version: str | None

    @staticmethod
    def _get_schema() -> str:
        return f"{PRODUCER}/ObjectsFacet"


@attr.define
class PartitionsFacet(DatasetFacet):
    """The partition versions that a publication made: partition, version, rows."""

    partitions: list[dict[str, Any]]

    @staticmethod
    def _get_schema() -> str:
        return f"{PRODUCER}/PartitionsFacet"


def extracted(run: Any, sealed: Any, versions: Mapping[str, str]) -> RunEvent:
    """NiFi read a dataset and sealed it; `versions` are the version ids of its objects and of the manifest, by key."""
    prefix = sealed.key.rpartition("/")[0]
    objects = [{**attr_dict(file), "version_id": versions.get(file.key)} for file in sealed.files]
    output = OutputDataset(
        f"s3://{sealed.bucket}",
        prefix,
        facets={
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(versions.get(sealed.key) or sealed.key),
            "etl_objects": ObjectsFacet(objects, sealed.flow_version),
        },
        outputFacets=_statistics(sealed.rows, sum(file.bytes for file in sealed.files)),
    )
    return _event(
        run, f"extract.{sealed.dataset}", sealed.attempt, [InputDataset(sealed.source, sealed.dataset)], [output]
    )


def staged(run: Any, declaration: Declaration, record: Mapping[str, Any], before: Mapping[str, Any]) -> list[RunEvent]:
    """A Spark stage wrote its datasets: one event for each, with what it was made of.

    record: the stage's; before: the datasets of the stage before ({name: {prefix, …}}), none for the first.
    """
    return [
        _event(
            run,
            f"{record['stage']}.{name}",
            record["attempt"],
            [InputDataset(*_place(url)) for url in _made_of(declaration, name, record, before)],
            [
                OutputDataset(
                    *_place(counts["prefix"]),
                    facets={
                        "schema": schema_dataset.SchemaDatasetFacet(
                            [schema_dataset.SchemaDatasetFacetFields(*column) for column in counts["columns"].items()]
                        )
                    },
                    outputFacets=_statistics(counts["rows_out"]),
                ),
                *_quarantined(counts),
            ],
        )
        for name, counts in record["datasets"].items()
    ]


def _quarantined(counts: Mapping[str, Any]) -> list[OutputDataset]:
    if "quarantine" not in counts:
        return []
    return [OutputDataset(*_place(counts["quarantine"]), outputFacets=_statistics(sum(counts["rejected"].values())))]


def taken_up(run: Any, url: str, document: Mapping[str, Any]) -> RunEvent:
    """A replay takes up quarantined rows; `document` is what jobs.quarantine.take_up has put to `url`."""
    inputs = [
        InputDataset(*_place(entry["prefix"]))
        for source in document["sources"].values()
        for entry in source.get("entries", ())
    ]
    inputs += [
        InputDataset(*_place(sealed.rpartition("/")[0]))
        for source in document["sources"].values()
        for sealed in source.get("sealed", ())
    ]
    output = OutputDataset(*_place(url.rpartition("/")[0]))
    return _event(run, "replay", run.attempt, inputs, [output])


def published(
    conn: psycopg.Connection, run: Any, declaration: Declaration, versions: Iterable[Mapping[str, Any]]
) -> list[RunEvent]:
    """Tables were published from the prefixes that the ledger has for the run; versions: what publish returned."""
    namespace, database = f"postgres://{conn.info.host}:{conn.info.port}", conn.info.dbname
    with conn.transaction():
        query = (
            "select dataset, prefix from etl.run_stage where run_id = %s and prefix is not null order by recorded_at"
        )
        prefixes = dict(conn.execute(query, (run.run_id,)).fetchall())
    versions = list(versions)
    events = []
    for table in declaration.publish.values():
        made = [
            {key: version[key] for key in ("partition", "version", "rows")}
            for version in versions
            if version["table"] == table.name
        ]
        facets = {"etl_partitions": PartitionsFacet(made)} if table.partition_column else {}
        output = OutputDataset(namespace, f"{database}.dwh.{table.name}", facets=facets)
        events.append(
            _event(run, f"publish.{table.name}", run.attempt, [InputDataset(*_place(prefixes[table.name]))], [output])
        )
    return events


def store(conn: psycopg.Connection, events: Iterable[RunEvent]) -> int:
    """Enter events in the ledger; those that are there stay. Returns how many are new."""
    return enter(conn, [json.loads(Serde.to_json(event)) for event in events])


def enter(conn: psycopg.Connection, events: Iterable[Mapping[str, Any]]) -> int:
    """Enter OpenLineage run events as JSON documents; returns how many are new."""
    new = 0
    with conn.transaction(), conn.cursor() as cursor:
        for event in events:
            key = hashlib.sha256(_identity(event).encode()).hexdigest()
            cursor.execute(
                """
                insert into etl.lineage_event (event_key, event_time, event_type, job_namespace, job_name, run_uuid, run_id, event)
                values (%s, %s, %s, %s, %s, %s, %s, %s) on conflict do nothing
                """,
                (
                    key,
                    event["eventTime"],
                    event["eventType"],
                    event["job"]["namespace"],
                    event["job"]["name"],
                    event["run"]["runId"],
                    _run_id(event),
                    json.dumps(event),
                ),
            )
            new += cursor.rowcount
            for direction in ("input", "output"):
                cursor.executemany(
                    "insert into etl.lineage_dataset values (%s, %s, %s, %s) on conflict do nothing",
                    [(key, direction, given["namespace"], given["name"]) for given in event.get(f"{direction}s") or ()],
                )
    return new


def _identity(event: Mapping[str, Any]) -> str:
    """What makes an event the same one: for ours all but its time, as repeating a task makes it again."""
    if event["producer"] != PRODUCER:
        return json.dumps(event, sort_keys=True)
    return json.dumps({key: value for key, value in event.items() if key != "eventTime"}, sort_keys=True)


def _run_id(event: Mapping[str, Any]) -> str | None:
    """The pipeline run that an event tells of: ours, or Airflow's in the ledger's spelling."""
    facets = event["run"].get("facets", {})
    if "etl_run" in facets:
        return facets["etl_run"]["run_id"]
    for name in ("airflow", "airflowDagRun"):
        if found := facets.get(name, {}).get("dagRun"):
            return run_id_of(found["dag_id"], found["run_id"])
    return None


def _event(
    run: Any,
    job: str,
    attempt: int,
    inputs: list[InputDataset],
    outputs: list[OutputDataset],
    at: datetime | None = None,
) -> RunEvent:
    whole = str(uuid.uuid5(SPACE, run.run_id))
    return RunEvent(
        eventType=RunState.COMPLETE,
        eventTime=(at or datetime.now(UTC)).isoformat(),
        run=Run(
            str(uuid.uuid5(SPACE, f"{run.run_id} {job} {attempt}")),
            facets={
                "parent": parent_run.ParentRunFacet(
                    run=parent_run.Run(whole), job=parent_run.Job(NAMESPACE, run.pipeline)
                ),
                "etl_run": PipelineRunFacet(
                    run.run_id, run.pipeline, run.release, str(run.interval_from), str(run.interval_to)
                ),
            },
        ),
        job=Job(NAMESPACE, f"{run.pipeline}.{job}"),
        inputs=inputs,
        outputs=outputs,
        producer=PRODUCER,
    )


def _made_of(declaration: Declaration, name: str, record: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """URLs of what a stage made a dataset of."""
    table = declaration.publish.get(name)
    if table is None:
        source = name.removeprefix("clean_")
        urls = [
            url.rpartition("/")[0]
            for origin, url in record["inputs"].items()
            if origin == source or getattr(declaration.sources.get(origin), "dataset", None) == source
        ]
        return urls or [url.rpartition("/")[0] for url in record["inputs"].values()]
    return [before[dataset]["prefix"] for dataset in _read_by(declaration, table) if dataset in before]


def _read_by(declaration: Declaration, table: Table) -> list[str]:
    if table.kind == "aggregate":
        return [table.source]
    sources = [table.source, *(join.source for join in table.joins.values()), *(source for source, _ in table.unknown)]
    parts = [
        part.name
        for source in dict.fromkeys(sources)
        for part in declaration.sources.values()
        if part.dataset == source
    ]
    return [f"clean_{part}" for part in parts]


def _place(url: str) -> tuple[str, str]:
    """(namespace, name) of a dataset at a URL: s3a://curated/x is s3://curated and x."""
    scheme, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{'s3' if scheme == 's3a' else scheme}://{bucket}", key.strip("/")


def _statistics(rows: int | None, size: int | None = None) -> dict[str, Any]:
    return {
        "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=rows, size=size
        )
    }


def attr_dict(file: Any) -> dict[str, Any]:
    """A file of a manifest as JSON has it."""
    return {"key": file.key, "rows": file.rows, "bytes": file.bytes, "sha256": file.sha256}
