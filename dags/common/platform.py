"""What every pipeline's DAG needs of the platform: its release, its run, clients made from Airflow's connections."""

from __future__ import annotations

import io
import json
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from structlog.contextvars import bind_contextvars

from jobs.declaration import Declaration, Source
from jobs.extract import count, landing, request
from jobs.lineage import events, spool
from jobs.load import journal, ledger
from jobs.load.audit import AuditFailed
from jobs.load.data_partitioning import days
from jobs.load.ledger import Run, run_id_of

ROOT = Path(__file__).resolve().parents[2]
RELEASES = Path("/opt/etl/releases")
BOUND = re.compile(r"\d{4}-\d{2}-\d{2}( \d{2}:\d{2}:\d{2})?")
FORMAT = "%Y-%m-%d %H:%M:%S"


def release(root: Path = ROOT) -> str:
    """Id of the release whose bundle version this file belongs to; 'unreleased' in a plain checkout."""
    path = root / "RELEASE"
    return json.loads(path.read_text())["id"] if path.exists() else "unreleased"


def name_release(context: dict[str, Any]) -> None:
    """Let every further log line of the task name the release that runs it."""
    bind_contextvars(release=release())


def run_of(declaration: Declaration, context: dict[str, Any]) -> Run:
    """The run that an Airflow context is about.

    The interval is `from` and `to` of the run's parameters (both or none), else the schedule's data interval; it is in
    the time zone that the pipeline declares. Raises ValueError when it is no interval.
    """
    dag_run, params = context["dag_run"], context["params"]
    if params.get("from") or params.get("to"):
        start, end = _bound(params, "from"), _bound(params, "to")
    elif dag_run.data_interval_start is None:
        raise ValueError("a run without a schedule's interval needs the parameters `from` and `to`")
    else:
        zone = ZoneInfo(declaration.timezone)
        start, end = (
            moment.astimezone(zone).replace(tzinfo=None)
            for moment in (dag_run.data_interval_start, dag_run.data_interval_end)
        )
    if start >= end:
        raise ValueError(f"`from` ({start}) must be before `to` ({end})")
    return Run(
        run_id=run_id_of(dag_run.dag_id, dag_run.run_id),
        dag_run_id=dag_run.run_id,
        pipeline=declaration.pipeline,
        release=release(),
        attempt=context["ti"].try_number,
        interval_from=start,
        interval_to=end,
    )


def require_whole_days(declaration: Declaration, run: Run) -> None:
    """Raise ValueError, before anything is extracted, for an interval that a table cannot replace day by day."""
    if any(
        (table.partition_column or table.interval) and not table.whole_months for table in declaration.publish.values()
    ):
        days(run)


def end_of(dag_run_id: str) -> str | None:
    """How a run of the executing task's DAG ended; None while it has not, or when Airflow knows none of that id."""
    from airflow.sdk import get_current_context
    from airflow.sdk.exceptions import AirflowRuntimeError

    ti = get_current_context()["ti"]
    try:
        state = ti.get_dagrun_state(dag_id=ti.dag_id, run_id=dag_run_id)
    except AirflowRuntimeError:  # a run of another DAG: a replay
        return None
    return state.value if state in ("success", "failed") else None


def audited(results: Callable[[], list[Any]]) -> int:
    """How many audits passed; what did not pass ends the run at once: a repetition would find the same rows."""
    from airflow.sdk.exceptions import AirflowFailException

    try:
        return len(results())
    except AuditFailed as error:
        raise AirflowFailException(str(error)) from error


def _bound(params: dict[str, Any], name: str) -> datetime:
    """A parameter as a naive local time; ValueError names it when it is missing or malformed."""
    value = params.get(name)
    if not isinstance(value, str) or not BOUND.fullmatch(value):
        raise ValueError(f"the parameter `{name}` is {value!r}; it must be YYYY-MM-DD or YYYY-MM-DD HH:MM:SS")
    return datetime.strptime(value if len(value) > 10 else f"{value} 00:00:00", FORMAT)


@contextmanager
def warehouse() -> Iterator[Any]:
    """A psycopg connection to the warehouse as etl_load; at the end what is open is committed, on an error rolled back."""
    import psycopg
    from airflow.sdk import Connection

    given = Connection.get("dwh")
    with psycopg.connect(
        host=given.host,
        port=given.port,
        dbname=given.schema,
        user=given.login,
        password=given.password,
        application_name="airflow",
        connect_timeout=10,
        **given.extra_dejson,
    ) as connection:
        yield connection


def object_versions(s3: Any, sealed: Any) -> dict[str, str]:
    """Version ids of the objects of a sealed manifest, its own among them, by key; empty where the bucket has no versions."""
    keys = [sealed.key, *(file.key for file in sealed.files)]
    answers = {key: s3.head_object(Bucket=sealed.bucket, Key=key) for key in keys}
    return {key: answer["VersionId"] for key, answer in answers.items() if "VersionId" in answer}


def object_store() -> tuple[Any, dict[str, str]]:
    """(boto3 S3 client, bucket names by purpose)."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook
    from airflow.sdk import Connection

    return S3Hook(aws_conn_id="s3").get_conn(), Connection.get("s3").extra_dejson["buckets"]


@contextmanager
def nifi(port: int) -> Iterator[tuple[Any, str]]:
    """(requests session with Airflow's client certificate, base URL of the pipeline's flow, which listens on `port`)."""
    import requests
    from airflow.sdk import Connection

    given = Connection.get("nifi")
    with requests.Session() as session:
        session.cert = (given.extra_dejson["cert"], given.extra_dejson["key"])
        session.verify = given.extra_dejson["ca"]
        yield session, f"{given.schema}://{given.host}:{port}"


def landed_files(source: Source, part: Run, session: Any, url: str) -> list[dict[str, Any]]:
    """The files that a source has for the part of a run, {"name", "size"} each; [] for a source that has no files.

    A directory on the NiFi host is listed by NiFi (`session` and `url` as from `nifi`), one behind SFTP from here. Raises
    landing.FilesMissing, FilesMisnamed or FilesUnsettled.
    """
    if source.files is None:
        return []
    look = (
        partial(request.listing, session, url, part, source) if source.kind == "directory" else partial(_sftp, source)
    )
    return landing.settled(source, look, part.interval_from, part.interval_to)


def _sftp(source: Source) -> dict[str, landing.Entry]:
    """The files in the directory of an SFTP source, by name."""
    from airflow.providers.sftp.hooks.sftp import SFTPHook
    from airflow.sdk import Connection

    directory = Connection.get(source.connection).extra_dejson.get("directory", "/")
    with SFTPHook(ssh_conn_id=source.connection).get_managed_conn() as client:
        return {
            found.filename: landing.Entry(found.st_size, found.st_mtime)
            for found in client.listdir_attr(directory)
            if stat.S_ISREG(found.st_mode)
        }


def source_count(
    declaration: Declaration, source: Source, part: Run, files: list[str], delivered: Any = None
) -> count.Count:
    """How many rows a source has for the part of a run, by its own count; `files` are those of a source of files.

    The directory of the NiFi host is open to NiFi alone, which refuses what is not as long as it was listed: its files are counted
    as they were delivered, once they are (`delivered` opens one by name).
    Raises CountError, or what the client of the source raises.
    """
    from airflow.sdk import Connection

    if source.kind == "sftp":
        return count.of_files(partial(landed_file, source.connection), source, part, files)
    if source.kind == "directory":
        if delivered is None:
            return count.Count(None, "not counted before NiFi delivered it")
        counted = count.of_files(delivered, source, part, files)
        return count.Count(counted.rows, f"{counted.how}, as delivered")
    given = Connection.get(source.connection)
    if source.kind == "rest":
        import requests

        with requests.Session() as session:
            session.verify = given.extra_dejson["ca"]
            session.headers["Authorization"] = f"Bearer {given.password}"
            return count.of_pages(session, f"https://{given.host}:{given.port}", source, part, declaration.timezone)
    login = {"host": given.host, "port": given.port, "user": given.login, "password": given.password}
    if given.conn_type == "postgres":
        import psycopg

        connected = psycopg.connect(dbname=given.schema, connect_timeout=10, **login, **given.extra_dejson)
    elif given.conn_type == "mysql":
        import pymysql

        connected = pymysql.connect(database=given.schema, connect_timeout=10, **login, **given.extra_dejson)
    else:
        raise count.CountError(f"{source.connection}: a connection of type {given.conn_type} cannot be counted")
    with closing(connected) as connection:
        return count.of_query(connection, source, part)


@contextmanager
def raw_file(s3: Any, sealed: Any, name: str) -> Iterator[Any]:
    """A file as it was delivered, by its name at the source, opened for reading; `sealed` is its manifest."""
    (key,) = [file.key for file in sealed.files if file.name == name]
    yield io.BytesIO(s3.get_object(Bucket=sealed.bucket, Key=key)["Body"].read())


@contextmanager
def landed_file(connection: str, name: str) -> Iterator[Any]:
    """A file in the landing directory of an SFTP source, opened for reading."""
    from airflow.providers.sftp.hooks.sftp import SFTPHook
    from airflow.sdk import Connection

    directory = Connection.get(connection).extra_dejson.get("directory", "/")
    with (
        SFTPHook(ssh_conn_id=connection).get_managed_conn() as client,
        client.open(f"{directory.rstrip('/')}/{name}", "rb") as file,
    ):
        file.prefetch()
        yield file


def stage_record(s3: Any, bucket: str, run: Run, stage: str) -> dict[str, Any]:
    """The record that the latest finished attempt of a Spark stage left; FileNotFoundError when none finished."""
    prefix = f"_stages/{run.run_id}/"
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    attempts = [int(key.split("/")[-2]) for key in keys if key.endswith(f"/{stage}.json")]
    if not attempts:
        raise FileNotFoundError(f"s3://{bucket}/{prefix} holds no record of the stage {stage}")
    answer = s3.get_object(Bucket=bucket, Key=f"{prefix}{max(attempts)}/{stage}.json")
    return json.loads(answer["Body"].read())


def record_stages(run: Run, declaration: Declaration, stages: Sequence[str]) -> None:
    """Enter the counts that the Spark stages left beside their output, with the lineage that follows from them."""
    s3, buckets = object_store()
    with warehouse() as connection:
        before: dict[str, Any] = {}
        for stage in stages:
            record = stage_record(s3, buckets["curated"], run, stage)
            ledger.record_stage(connection, run, record)
            events.store(connection, events.staged(run, declaration, record, before))
            before |= record["datasets"]


def close(run: Run) -> None:
    """Close a published run in the ledger, bring the lineage events that Airflow has spooled there, and have the journal know them."""
    s3, buckets = object_store()
    with warehouse() as connection:
        ledger.finish_run(connection, run, "published")
        spool.load(connection)
        journal.enter(connection, s3, buckets["curated"], run.run_id)


def record_failure(declaration: Declaration, context: dict[str, Any]) -> None:
    """Note in the ledger which task ended the run and why."""
    failed = f"{context['ti'].task_id}: {context.get('exception')}"
    with warehouse() as connection:
        ledger.finish_run(connection, run_of(declaration, context), "failed", error=failed)
