"""Which of the files in a landing directory a run takes, and when they are whole.

A declared name may have * and ?, and %Y, %m, %d: a file of each year, month or day that the interval touches. A file is taken once
its size and its time of change stay the same for the declared time; NiFi compares its size again when it has read it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from jobs.declaration import Source

LETTER = "[A-Za-z0-9_.-]"  # of a file's name, in a request too
NAME = re.compile(f"{LETTER}+")
PATIENCE = 30  # looks at a directory in which files still change


@dataclass(frozen=True)
class Entry:
    """A file as a listing shows it: bytes, and its time of change in whatever precision the listing has."""

    size: int
    changed: float


class FilesMissing(FileNotFoundError):
    """A source did not deliver what it should have; the message names the files."""


class FilesMisnamed(RuntimeError):
    """Files that fit a declared name and have letters in theirs that no request may have; the message names them."""


class FilesUnsettled(RuntimeError):
    """Files kept changing for as long as the caller would wait; the message names them."""


def periods(pattern: str, start: datetime, end: datetime) -> dict[str, tuple[datetime, datetime]]:
    """The names that a pattern stands for in [start, end), each with the whole year, month or day it is about.

    A pattern without %Y, %m and %d stands for itself, and is about all times.
    """
    if "%" not in pattern:
        return {pattern: (datetime.min, datetime.max)}
    found = {}
    lower = start.replace(hour=0, minute=0, second=0, microsecond=0)
    if "%d" not in pattern:
        lower = lower.replace(day=1) if "%m" in pattern else lower.replace(day=1, month=1)
    while lower < end:
        if "%d" in pattern:
            upper = lower + timedelta(days=1)
        elif "%m" in pattern:
            upper = lower.replace(year=lower.year + lower.month // 12, month=lower.month % 12 + 1)
        else:
            upper = lower.replace(year=lower.year + 1)
        found[lower.strftime(pattern)] = (lower, upper)
        lower = upper
    return found


def period_of(name: str, source: Source, start: datetime, end: datetime) -> tuple[datetime, datetime] | None:
    """The time that a file is about by its name; None for a file of all times."""
    if source.files is None or "%" not in source.files:
        return None
    for pattern, period in periods(source.files, start, end).items():
        if fnmatchcase(name, pattern):
            return period
    raise ValueError(f"{source.name}: the file {name} is not of the interval from {start} to {end}")


def choose(source: Source, listed: dict[str, Entry], start: datetime, end: datetime) -> dict[str, Entry]:
    """The listed files that the source's declaration asks for, by name.

    Raises FilesMissing: a source that delivers nothing is a fault, not an empty dataset. Raises FilesMisnamed: leaving a file out is
    one too.
    """
    chosen, missing = {}, []
    for pattern in periods(source.files, start, end):
        matching = {name: entry for name, entry in listed.items() if fnmatchcase(name, pattern)}
        if not matching:
            missing.append(pattern)
        chosen |= matching
    if missing:
        raise FilesMissing(f"{source.name}: {source.connection} has no file {', '.join(missing)}")
    if misnamed := sorted(name for name in chosen if not NAME.fullmatch(name)):
        raise FilesMisnamed(
            f"{source.name}: {source.connection} has {', '.join(map(repr, misnamed))}: a name is of letters without accents, digits, _ . -"
        )
    return dict(sorted(chosen.items()))


def settled(
    source: Source,
    look: Callable[[], dict[str, Entry]],
    start: datetime,
    end: datetime,
    *,
    patience: int = PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
) -> list[dict[str, Any]]:
    """The files that a request names, {"name", "size"} each, once they no longer change.

    `look` lists the directory. Raises FilesMissing or FilesMisnamed, or FilesUnsettled after `patience` looks.
    """
    before = choose(source, look(), start, end)
    for _ in range(patience):
        sleep(source.settle)
        now = choose(source, look(), start, end)
        if now == before:
            return [{"name": name, "size": entry.size} for name, entry in now.items()]
        changing, before = {name for name in now if now[name] != before.get(name)}, now
    raise FilesUnsettled(
        f"{source.name}: {source.connection} is still being written: {', '.join(sorted(changing))} changed within {source.settle} s"
    )
