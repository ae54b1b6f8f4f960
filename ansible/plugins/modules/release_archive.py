#!/usr/bin/python
"""Pack the repository's ETL code as one release; runs on the controller, in the checkout."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import zipfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: release_archive
short_description: Name and pack the release that a checkout holds
description:
  - The release's id is the first 12 digits of the commit; uncommitted changes of the shipped paths add a hash.
  - The archive holds the shipped files, C(jobs.zip) for Spark's C(--py-files), and C(RELEASE) as its last member,
    so that a directory with that file is a whole release.
options:
  root: {type: path, required: true, description: The checkout.}
  paths: {type: list, elements: str, default: [jobs, dags], description: What is shipped.}
  directory: {type: path, required: true, description: Where the archive is kept.}
"""
RETURN = """
id: {type: str, returned: always, description: The release's id.}
commit: {type: str, returned: always, description: The whole commit.}
archive: {type: str, returned: always, description: Path of the archive.}
"""

EPOCH = (1980, 1, 1, 0, 0, 0)


def git(root: Path, *arguments: str) -> str:
    """Output of git in the checkout; RuntimeError with git's message when it fails."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"git {' '.join(arguments)} in {root}: {done.stderr.strip()}")
    return done.stdout


def shipped_files(root: Path, paths: list[str]) -> list[str]:
    """Files under `paths` that git tracks or would track, sorted, relative to the checkout."""
    listed = git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *paths)
    return sorted(name for name in set(listed.split("\0")) if name and (root / name).is_file())


def release_id(root: Path, paths: list[str], files: list[str]) -> tuple[str, str]:
    """(id, commit): 12 digits of the commit, plus `-` and 8 of a content hash when `paths` differ from it."""
    commit = git(root, "rev-parse", "HEAD").strip()
    if not git(root, "status", "--porcelain", "--untracked-files=all", "--", *paths).strip():
        return commit[:12], commit
    digest = hashlib.sha256()
    for name in files:
        content = (root / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return f"{commit[:12]}-{digest.hexdigest()[:8]}", commit


def jobs_zip(root: Path, files: list[str]) -> bytes:
    """The package `jobs` as Spark's --py-files wants it; equal content gives equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files:
            if name.startswith("jobs/"):
                archive.writestr(zipfile.ZipInfo(name, EPOCH), (root / name).read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def pack(root: Path, files: list[str], release: dict, target: Path) -> None:
    """Write the release's archive, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    with (
        open(partial, "wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name in files:
            mode = 0o755 if os.access(root / name, os.X_OK) else 0o644
            _add(archive, name, (root / name).read_bytes(), mode)
        _add(archive, "jobs.zip", jobs_zip(root, files), 0o644)
        _add(archive, "RELEASE", (json.dumps(release, indent=2) + "\n").encode(), 0o644)
    os.replace(partial, target)


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def run(module: AnsibleModule) -> dict:
    """Name the release and see that its archive exists; return the module's result."""
    root, paths = Path(module.params["root"]), module.params["paths"]
    files = shipped_files(root, paths)
    for path in paths:
        if not any(name == path or name.startswith(f"{path}/") for name in files):
            raise RuntimeError(f"{root / path} holds no file: is {root} a checkout of the repository?")
    identifier, commit = release_id(root, paths, files)
    target = Path(module.params["directory"]) / f"{identifier}.tar.gz"
    if not re.fullmatch(r"[0-9a-f]{12}(-[0-9a-f]{8})?", identifier):
        raise RuntimeError(f"unusable release id {identifier!r}")
    if not target.exists() and not module.check_mode:
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        pack(root, files, {"id": identifier, "commit": commit, "created": created}, target)
    # The archive is the controller's cache; what a release changes is reported where it is unpacked.
    return {"changed": False, "id": identifier, "commit": commit, "archive": str(target)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "paths": {"type": "list", "elements": "str", "default": ["jobs", "dags"]},
            "directory": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (OSError, RuntimeError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
