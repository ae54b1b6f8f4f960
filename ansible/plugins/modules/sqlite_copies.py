#!/usr/bin/python
"""Copy SQLite databases that are written to meanwhile, each as it was at one moment."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: sqlite_copies
short_description: Consistent copies of the SQLite databases below directories
description:
  - Copies every C(*.db) that is an SQLite database, by SQLite's own means, with owner and mode. What is only in the log of a
    database (C(-wal)) is in the copy, which needs no log.
options:
  paths: {type: list, elements: path, required: true, description: Files and directories to look into.}
  directory: {type: path, required: true, description: "Where the copies are put, each at its own path below it."}
"""
RETURN = """
copies: {type: list, elements: str, returned: always, description: "What was copied, relative to the directory (and to /)."}
"""

MAGIC = b"SQLite format 3\0"


def databases(paths: list[str]) -> list[Path]:
    """The databases among the files and below the directories."""
    files = [file for path in map(Path, paths) for file in (sorted(path.rglob("*.db")) if path.is_dir() else [path])]
    return [file for file in files if file.is_file() and not file.is_symlink() and is_database(file)]


def is_database(file: Path) -> bool:
    """Whether a file begins as an SQLite database does."""
    with open(file, "rb") as opened:
        return opened.read(len(MAGIC)) == MAGIC


def copy(source: Path, target: Path) -> None:
    """Copy a database with its owner and mode."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        closing(sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True)) as present,
        closing(sqlite3.connect(target)) as made,
    ):
        present.backup(made)
    shutil.copystat(source, target)
    owner = source.stat()
    os.chown(target, owner.st_uid, owner.st_gid)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "required": True},
            "directory": {"type": "path", "required": True},
        }
    )
    copies = []
    try:
        for source in databases(module.params["paths"]):
            copies.append(str(source.relative_to("/")))
            copy(source, Path(module.params["directory"]) / copies[-1])
    except (OSError, sqlite3.Error) as error:
        module.fail_json(msg=f"{source}: {error}")
    module.exit_json(changed=False, copies=copies)


if __name__ == "__main__":
    main()
