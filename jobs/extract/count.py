"""How many rows a source has, asked of the source itself: past NiFi, the object store and Spark.

It is the left side of the ledger's equation (etl.v_balance): whatever is lost or doubled on the way shows against it.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

import pyarrow.parquet as parquet

from jobs.declaration import Source
from jobs.extract.landing import period_of
from jobs.extract.manifest import Run
from jobs.extract.records import csv_spans, line_spans, spans


@dataclass(frozen=True)
class Count:
    """Rows of a source, None when it cannot be asked; `how` tells people how they were counted, or why not."""

    rows: int | None
    how: str


class CountError(RuntimeError):
    """A source that could not be counted; the message names it and says why."""


def of_query(connection: Any, source: Source, run: Run) -> Count:
    """Let the database count what the declared query gives for the run's interval, over a DB-API connection."""
    query = source.query.replace("%", "%%").replace("?", "%s")
    bounds = (run.interval_from, run.interval_to) if source.interval else ()
    with connection.cursor() as cursor:
        # lines of its own, as the query may end with a comment
        cursor.execute(f"select count(*) from (\n{query}\n) as counted", bounds)
        return Count(cursor.fetchone()[0], f"count(*) of the query in {source.connection}")


def of_pages(session: Any, url: str, source: Source, run: Run, zone: str) -> Count:
    """Let an API say how many rows it has for the run's interval; one that only links its pages is read to the end.

    `session` is a requests session that may ask, `url` the address of the connection, `zone` that of the run's
    bounds.
    """
    page, how = source.page, f"pages of {source.connection}"
    address, query = f"{url}{source.path}", {name: _bound(text, run, zone) for name, text in source.parameters.items()}
    if page.total:
        query |= {page.size: str(page.rows), page.number: "1"}
        total = _at(_json(session, address, query, source), page.total)
        if not re.fullmatch("[0-9]+", str(total)):
            raise CountError(
                f"{source.connection}: {address} says {total!r} where `{page.total}`, a number of rows, should be"
            )
        return Count(int(total), f"{page.total} of the {how}")
    rows = 0
    for _ in range(page.most):
        document = _json(session, address, query, source)
        records = _at(document, source.records)
        if not isinstance(records, list):
            raise CountError(f"{source.connection}: {address} has no list of rows in `{source.records}`")
        rows += len(records)
        if not (address := _at(document, page.next)):
            return Count(rows, f"all {how}")
        if not str(address).startswith("https://"):
            raise CountError(f"{source.connection}: the next page is {address!r}, which is no URL of HTTPS")
        query = {}
    raise CountError(f"{source.connection}: more than {page.most} pages")


def _json(session: Any, address: str, query: dict[str, str], source: Source) -> Any:
    answer = session.get(address, params=query, timeout=(10, 60))
    if not answer.ok:
        raise CountError(f"{source.connection}: {answer.url} answers {answer.status_code} {answer.reason}")
    try:
        return answer.json()
    except ValueError as error:
        raise CountError(f"{source.connection}: {answer.url} answers no JSON: {error}") from error


def _at(document: Any, path: str) -> Any:
    for step in path.split("."):
        document = document.get(step) if isinstance(document, dict) else None
    return document


def _bound(text: str, run: Run, zone: str) -> str:
    """A parameter with the run's bounds in it, as the flow makes it."""
    for name, moment in {"from": run.interval_from, "to": run.interval_to}.items():
        utc = moment.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
        text = text.replace(f"{{{name}_utc}}", f"{utc:%Y-%m-%dT%H:%M:%SZ}").replace(
            f"{{{name}}}", f"{moment:%Y-%m-%dT%H:%M:%S}"
        )
    return text


def of_files(
    open_file: Callable[[str], AbstractContextManager[BinaryIO]], source: Source, run: Run, names: Iterable[str]
) -> Count:
    """Count the records of delivered files that belong to the run, read where they were delivered."""
    names = list(names)
    rows = 0
    for name in names:
        with open_file(name) as file:
            try:
                rows += _records(gzip.GzipFile(fileobj=file) if name.endswith(".gz") else file, name, source, run)
            except (OSError, EOFError, ValueError) as error:
                raise CountError(f"{source.connection}: {name} is no readable {source.format} file: {error}") from error
    return Count(rows, f"records of {', '.join(names[:3])}{', …' if len(names) > 3 else ''} in {source.connection}")


def _records(file: BinaryIO, name: str, source: Source, run: Run) -> int:
    if source.interval is None:
        if source.format == "parquet":
            return parquet.ParquetFile(file).metadata.num_rows
        return len(spans(source.format, file.read()))
    if source.format == "parquet":
        table = parquet.ParquetFile(file)
        if source.interval not in table.schema_arrow.names:
            return table.metadata.num_rows
        moments = table.read([source.interval]).column(0).to_pylist()
    elif source.format == "csv":
        content = file.read()
        fields = [
            next(csv.reader([content[start:end].decode(source.encoding, "replace").removeprefix("\ufeff")]), [])
            for start, end in csv_spans(content)
        ]
        place = fields[0].index(source.interval) if fields and source.interval in fields[0] else None
        moments = [row[place] if place is not None and place < len(row) else None for row in fields[1:]]
    elif source.format == "jsonl":
        content = file.read()
        moments = [_moment(content[start:end], source.interval) for start, end in line_spans(content)]
    else:
        document = json.load(file)
        rows = document if isinstance(document, list) else [document]
        moments = [row.get(source.interval) if isinstance(row, dict) else None for row in rows]
    period = period_of(name, source, run.interval_from, run.interval_to)
    return sum(_belongs(moment, run, period) for moment in moments)


def _moment(line: bytes, name: str) -> Any:
    """A field of a line of JSON; None where there is none, or the line is no JSON object."""
    try:
        return json.loads(line).get(name)
    except (ValueError, AttributeError):
        return None


def _belongs(moment: Any, run: Run, period: tuple[datetime, datetime] | None) -> bool:
    """Whether a row is the run's: in its interval, of no time that could be read, or of none that its file is named for."""
    if isinstance(moment, str):
        # what Spark takes for a day: blanks around it, digits left out, but no 20130131 and no weeks
        day = re.fullmatch(r"\s*(\d{4})-(\d{1,2})-(\d{1,2})((?:[T ].*)?)", moment, re.DOTALL)
        try:
            moment = day and datetime.fromisoformat(f"{day[1]}-{day[2]:0>2}-{day[3]:0>2}{day[4].rstrip()}")
        except ValueError:
            return True
    if isinstance(moment, date) and not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    if not isinstance(moment, datetime):
        return True
    moment = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    return run.interval_from <= moment < run.interval_to or (period is not None and not period[0] <= moment < period[1])
