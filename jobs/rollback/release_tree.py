"""What an unpacked release consists of, and what it leaves on the platform."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class ReleaseError(RuntimeError):
    """A release that is unknown, damaged or not to be deployed; the message says which and why."""


def describe(tree: Path) -> dict[str, Any]:
    """What an unpacked release holds: digests by flow, its DAGs and units, the migration level that it brings.

    `owned` names what a deployment leaves on the platform, so that a later one, which lacks it, takes it away.
    """
    release = json.loads((tree / "RELEASE").read_text())
    flows = {path.stem: _digest(path) for path in sorted((tree / "jobs/extract/nifi/flows").glob("*.json"))}
    dags = sorted(path.stem for path in (tree / "dags").glob("*.py"))
    units = sorted(path.name for path in (tree / "jobs/units").glob("*") if path.suffix in (".service", ".timer"))
    if foreign := [unit for unit in units if not unit.startswith("etl-")]:
        raise ReleaseError(f"jobs/units: {', '.join(foreign)}: a release's units are named etl-*")
    dbt = tree / "jobs/transform/dbt"
    return {
        "release": release["id"],
        "commit": release["commit"],
        "flows": flows,
        "jobs": _digest(tree / "jobs.zip"),
        "level": len(list((tree / "jobs/load/migrations").glob("*.up.sql"))),
        "dbt": tree_digest(dbt) if (dbt / "dbt_project.yml").exists() else None,
        "owned": {
            "dags": dags,
            "files": [str(tree), *(f"/etc/systemd/system/{unit}" for unit in units)],
            "flows": sorted(flows),
            "units": units,
        },
    }


def trees(directory: Path) -> list[Path]:
    """The whole releases in a directory, by name."""
    return sorted(path.parent for path in directory.glob("*/RELEASE") if not path.parent.is_symlink())


def surplus(directory: Path, release: str, known: Iterable[Mapping[str, Any]] = ()) -> dict[str, list[str]]:
    """{"flows", "units"} that other releases own, by their trees or their manifests, and this one does not."""
    own = describe(directory / release)["owned"]
    others = [describe(tree)["owned"] for tree in trees(directory)] + [manifest["owned"] for manifest in known]
    return {
        kind: sorted({name for owned in others for name in owned[kind]} - set(own[kind])) for kind in ("flows", "units")
    }


def tree_digest(tree: Path) -> str:
    """One SHA-256 over names and contents of the files below a directory."""
    digest = hashlib.sha256()
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(tree)}\0{_digest(path)}\0".encode())
    return digest.hexdigest()


def packed(tree: Path) -> bytes:
    """The tree as a compressed archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(tree, arcname=".", filter=lambda member: None if "__pycache__" in member.name else member)
    return buffer.getvalue()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
