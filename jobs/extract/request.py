"""Asking NiFi for one dataset of a run, and waiting for the manifest that seals it.

NiFi answers 202 at once; the manifest or a failure record in the object store is the real answer. Each request has an
attempt number of its own, so that nothing of an earlier attempt is ever mistaken for this one's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import requests

from jobs.declaration import Source
from jobs.extract import manifest
from jobs.extract.landing import Entry
from jobs.extract.manifest import Manifest, Run

LISTED, ACCEPTED = 200, 202


class ExtractError(RuntimeError):
    """No sealed manifest came of a request."""


class NifiUnreachable(ExtractError):
    """NiFi did not answer; nothing was extracted."""


class ExtractRefused(ExtractError):
    """NiFi refused the request; the message has its reason."""


class ExtractFailed(ExtractError):
    """The flow left a failure record; the message has its stage and reason."""


class ExtractTimeout(ExtractError):
    """Neither manifest nor failure record came in time."""


def extract(
    session: requests.Session,
    url: str,
    s3: Any,
    bucket: str,
    run: Run,
    source: Source,
    files: Sequence[dict[str, Any]] = (),
    seconds: float = 1500,
) -> Manifest:
    """Ask for one dataset and wait until it is sealed.

    `session` carries the client certificate, `url` is NiFi's request address, `files` are {"name", "size"} in the
    landing directory (sources of files only), `seconds` is how long the extract may take. Raises ExtractError.
    """
    attempt = manifest.next_attempt(s3, bucket, source.connection, source.name, run)
    request(session, url, run, source, attempt, files)
    return wait(s3, bucket, run, source, attempt, seconds)


def request(
    session: requests.Session,
    url: str,
    run: Run,
    source: Source,
    attempt: int,
    files: Sequence[dict[str, Any]] = (),
) -> None:
    """Hand NiFi one request. Raises NifiUnreachable or ExtractRefused."""
    _ask(session, url, run, source, ACCEPTED, {"attempt": attempt} | ({"files": list(files)} if files else {}))


def listing(session: requests.Session, url: str, run: Run, source: Source) -> dict[str, Entry]:
    """The files in the directory of a source on the NiFi host, by name. Raises NifiUnreachable or ExtractRefused."""
    answer = _ask(session, url, run, source, LISTED, {"attempt": 1, "list": True})
    found = {}
    for line in answer.content.decode("utf-8", "surrogateescape").split("\0")[:-1]:
        size, changed, name = line.split(" ", 2)
        found[name] = Entry(int(size), float(changed))
    return found


def _ask(
    session: requests.Session, url: str, run: Run, source: Source, wanted: int, more: dict[str, Any]
) -> requests.Response:
    where = f"{url.rstrip('/')}/extract/{run.pipeline}"
    body = {
        "pipeline": run.pipeline,
        "run_id": run.run_id,
        "dataset": source.name,
        "from": manifest.bound(run.interval_from),
        "to": manifest.bound(run.interval_to),
        **more,
    }
    try:
        answer = session.post(where, json=body, timeout=(10, 60))
    except requests.RequestException as error:
        raise NifiUnreachable(f"NiFi does not answer at {where}: {error}") from error
    if answer.status_code != wanted:
        raise ExtractRefused(f"NiFi at {where} refused {source.name}: {answer.status_code} {_reason(answer)}")
    return answer


def wait(s3: Any, bucket: str, run: Run, source: Source, attempt: int, seconds: float, pause: float = 1.0) -> Manifest:
    """The manifest of an attempt, once it is sealed. Raises ExtractFailed with the flow's reason, or ExtractTimeout."""
    start = f"{manifest.prefix(source.connection, source.name, run)}attempt={attempt}/"
    deadline = time.monotonic() + seconds
    while True:
        failure = manifest.read_json(s3, bucket, start + manifest.FAILURE)
        # read after the failure record: an attempt that was sealed after all is a success
        if sealed := manifest.read(s3, bucket, start + manifest.MANIFEST):
            return sealed
        if failure:
            raise ExtractFailed(
                f"NiFi could not extract {source.name} (attempt {attempt}), "
                f"stage {failure.get('stage')}: {failure.get('reason')}"
            )
        if time.monotonic() >= deadline:
            raise ExtractTimeout(
                f"NiFi left neither manifest nor failure record in s3://{bucket}/{start} within {seconds:.0f} s"
            )
        time.sleep(pause)
        pause = min(pause * 1.3, 10)


def _reason(answer: requests.Response) -> str:
    """The flow says why in JSON; the listener itself answers in HTML."""
    try:
        return answer.json()["error"]
    except (ValueError, KeyError, TypeError):
        return answer.reason
