"""What pgBackRest says of a repository, and which backup leads back to a moment.

A cluster's log is a line of timelines: a restore ends one at a position and begins the next. Positions are only comparable along one
line (`lineage`), and a backup leads to a moment only if it was made on the moment's line, before it.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime

SEGMENT = 16 * 1024 * 1024
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Refused(Exception):
    """A target to which there is no way; the message says why, and which there are."""


@dataclass(frozen=True)
class Target:
    """`kind` is latest, time, lsn or name."""

    kind: str
    value: str = ""


def pgbackrest(*arguments: str) -> str:
    """Run pgBackRest as the present user; RuntimeError with its own words when it fails."""
    done = subprocess.run(["pgbackrest", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pgbackrest {' '.join(arguments)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def info(stanza: str) -> dict:
    """The repository's knowledge of one stanza, in the form of `pgbackrest --output=json info`."""
    return json.loads(pgbackrest(f"--stanza={stanza}", "--output=json", "info"))[0]


def position(lsn: str) -> int:
    """A log sequence number like 1/A0000F8 as bytes from the beginning; Refused when it is none."""
    match = re.fullmatch(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", lsn)
    if not match:
        raise Refused(f"{lsn} is no position in the log: it looks like 1/A0000F8")
    return (int(match[1], 16) << 32) + int(match[2], 16)


def timeline_of(segment: str) -> int:
    """The timeline of a segment of the log, by its name."""
    return int(segment[:8], 16)


def end_of(segment: str) -> int:
    """Position at which a segment ends, by its name."""
    return (int(segment[8:16], 16) << 32) + (int(segment[16:24], 16) + 1) * SEGMENT


def target_of(text: str) -> Target:
    """`latest`, `lsn:1/A0000F8`, `name:<restore point>` or a moment in ISO 8601 (UTC unless it has an offset)."""
    kind, _, value = text.strip().partition(":")
    if kind == "latest" and not value:
        return Target("latest")
    if kind == "lsn":
        position(value)
        return Target("lsn", value.upper())
    if kind == "name":
        if not NAME.fullmatch(value):
            raise Refused(
                f"{value!r} is no name of a restore point: letters, digits, dot, dash and underscore, 63 at most"
            )
        return Target("name", value)
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise Refused(
            f"to={text} is none of: latest, lsn:1/A0000F8, name:<restore point>, 2026-01-31T12:00:00Z"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return Target("time", moment.astimezone(UTC).isoformat(sep=" "))


def moment_of(seconds: float) -> str:
    """Seconds of the epoch as a moment, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ")


def restore_points(stanza: dict) -> dict[str, dict]:
    """Named restore points {name: {lsn, time, timeline, label}}; each is kept with the backup that leads to it."""
    found = {}
    for backup in stanza["backup"]:
        for name, value in (backup.get("annotation") or {}).items():
            try:
                lsn, time, timeline = value.split()
                found[name] = {"lsn": lsn, "time": time, "timeline": int(timeline), "label": backup["label"]}
            except ValueError:
                continue  # somebody's own note
    return found


def newest_timeline(stanza: dict) -> int:
    """The timeline on which the log ends."""
    segments = [backup["archive"]["stop"] for backup in stanza["backup"]]
    segments += [archive["max"] for archive in stanza["archive"][-1:] if archive["max"]]
    return max((timeline_of(segment) for segment in segments if segment), default=1)


def lineage(timeline: int, history: str = "") -> dict[int, float]:
    """The timelines that lead to `timeline`, each with the position at which it was left; `history` is its history file."""
    line: dict[int, float] = {}
    for row in history.splitlines():
        fields = row.split()
        if len(fields) >= 2 and fields[0].isdigit():
            line[int(fields[0])] = position(fields[1])
    return line | {timeline: float("inf")}


def timeline_for(stanza: dict, target: Target, chosen: int | None = None) -> int:
    """The timeline to follow: the one asked for, that of a restore point, else the newest."""
    if chosen:
        return chosen
    points = restore_points(stanza)
    if target.kind == "name" and target.value in points:
        return points[target.value]["timeline"]
    return newest_timeline(stanza)


def plan(stanza: dict, target: Target, line: dict[int, float], now: float, written: str | None = None) -> dict:
    """How to get to `target` along the timelines of `line`.

    `now`: seconds of the epoch; `written`: position up to which the cluster has written its log, None when it is down. Returns
    {backup: {label, type, stop, size}, wal: {start, end}, timeline, moment (ISO; "" when not known), before (ISO: not later than
    this), arguments (of pgbackrest restore)}. Raises Refused when the backups do not lead there.
    """
    backups = [
        backup
        for backup in stanza["backup"]
        if not backup.get("error")
        and timeline_of(backup["archive"]["stop"]) in line
        and position(backup["lsn"]["stop"]) <= line[timeline_of(backup["archive"]["stop"])]
    ]
    if not backups:
        raise Refused(f"the repository has no backup of {stanza['name']} that leads to timeline {max(line)}")
    backups.sort(key=lambda backup: backup["timestamp"]["stop"])
    ends = [archive["max"] for archive in stanza["archive"][-1:] if archive["max"]]
    oldest, moment, options = backups[0], "", []
    if target.kind == "time":
        seconds = datetime.fromisoformat(target.value).timestamp()
        if seconds > now:
            raise Refused(f"{target.value} is in the future")
        backups = [backup for backup in backups if backup["timestamp"]["stop"] < seconds]
        moment, options = target.value, ["--type=time", f"--target={target.value}"]
    elif target.kind in ("lsn", "name"):
        points = restore_points(stanza)
        if target.kind == "name" and target.value not in points:
            raise Refused(f"there is no restore point {target.value}; there are: {', '.join(sorted(points)) or 'none'}")
        lsn = points[target.value]["lsn"] if target.kind == "name" else target.value
        moment = points[target.value]["time"].replace("T", " ") if target.kind == "name" else ""
        end = position(written) if written else max(map(end_of, ends), default=0)
        # A restore point is archived when it is noted, and of a timeline that was left nobody knows how far it went.
        if target.kind == "lsn" and max(line) == newest_timeline(stanza) and position(lsn) > end:
            raise Refused(f"the log of {stanza['name']} ends before {lsn}")
        backups = [backup for backup in backups if position(backup["lsn"]["stop"]) <= position(lsn)]
        options = [f"--type={target.kind}", f"--target={target.value}"]
    if not backups:
        first = moment_of(oldest["timestamp"]["stop"])
        raise Refused(
            f"the backups reach back to {first} (position {oldest['lsn']['stop']}) and not to {target.value};"
            " what the object store still has of older ones is under its former versions"
        )
    chosen = backups[-1]
    return {
        "backup": {
            "label": chosen["label"],
            "type": chosen["type"],
            "stop": moment_of(chosen["timestamp"]["stop"]),
            "size": chosen["info"]["size"],
        },
        "wal": {"start": chosen["archive"]["start"], "end": max(ends, default="")},
        "timeline": max(line),
        "moment": moment,
        "before": moment_of(now) if target.kind == "latest" else moment or moment_of(chosen["timestamp"]["stop"]),
        "arguments": [
            f"--set={chosen['label']}",
            *options,
            *([] if target.kind == "latest" else ["--target-action=promote"]),
            f"--target-timeline={max(line)}",
        ],
    }
