"""Releases for people: a list of them, and what differs between two."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from jobs.rollback.manifests import newest


def listing(manifests: Iterable[Mapping[str, Any]], current: str | None = None) -> str:
    """A line a release, newest first; `*` is the one in service."""
    lines = [f"  {'release':<22}{'deployed (UTC)':<18}{'state':<7}{'level':<7}{'flows, DAGs, units':<20}reason"]
    for manifest in reversed(list(newest(manifests).values())):
        owned = manifest["owned"]
        counts = ", ".join(str(len(owned[kind])) for kind in ("flows", "dags", "units"))
        sign = "*" if manifest["release"] == current else " "
        lines.append(
            f"{sign} {manifest['release']:<22}{manifest['deployed_at'][:16].replace('T', ' '):<18}{manifest['state']:<7}"
            f"{manifest['migration']:<7}{counts:<20}{manifest['reason'] or ''}".rstrip()
        )
    return "\n".join(lines if len(lines) > 1 else ["  no release has a manifest yet"])


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, in `one`, in `other`) for all that differs between two manifests."""
    found = []
    for what in ("commit", "state", "jobs", "bundle_version", "migration", "dbt"):
        if one[what] != other[what]:
            found.append((what.replace("_", " "), _short(one[what]), _short(other[what])))
    for what in ("flows", "artifacts", "parameters"):
        found += _changed(what.removesuffix("s"), _flat(one[what]), _flat(other[what]))
    for what in ("dags", "units"):
        absent = {name: "" for name in {*one["owned"][what], *other["owned"][what]}}
        sides = [absent | dict.fromkeys(side["owned"][what], "there") for side in (one, other)]
        found += _changed({"dags": "DAG", "units": "unit"}[what], *sides)
    if (one["terraform"] or {}) != (other["terraform"] or {}):
        found.append(("terraform serial", *(_short((side["terraform"] or {}).get("serial")) for side in (one, other))))
    return found


def comparison(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What differs, a line each."""
    rows = differences(one, other)
    width = max((len(what) for what, _, _ in rows), default=0) + 2
    lines = [f"  {'':<{width}}{one['release']:<24}{other['release']}"]
    lines += [f"  {what:<{width}}{before:<24}{after}".rstrip() for what, before, after in rows]
    return "\n".join(lines if rows else [f"  {one['release']} and {other['release']} consist of the same"])


def _changed(label: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (f"{label} {name}", _short(before.get(name)), _short(after.get(name)))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and "sha256" not in value:
            flat |= {f"{name}.{key}": str(digest) for key, digest in value.items()}
        else:
            flat[name] = value["sha256"] if isinstance(value, Mapping) else str(value)
    return flat


def _short(value: Any) -> str:
    text = "-" if value in (None, "") else str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{40,64}", text) else text[:22]
