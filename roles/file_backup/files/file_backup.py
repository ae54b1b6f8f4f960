#!/usr/bin/python3
"""Stores files of this host's services in the object store: packed, encrypted, an object for each service.

etl-file-backup [--service SERVICE] [--replace]
etl-file-backup --name NAME PATH...

Without a service all of them are stored; one that fails keeps no other from it. What the store holds of a service that this host has
never stored, a former host left: it is not replaced unless --replace is given. With a name, the paths are stored under it, and nothing
is recorded.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

MAGIC = b"SQLite format 3\0"
METRICS = {
    "etl_file_backup_last_success_timestamp_seconds": "When the files of a service were stored (0: never)",
    "etl_file_backup_bytes": "Size of what was stored then",
}
LEFT = (
    "the store holds files of a former host. They come back by playbooks/restore_files.yml -e service={}; "
    "if they are given up: playbooks/archive.yml -e file_backup_new_host=true, once"
)


class Failed(Exception):
    """The files of a service could not be stored."""


def header(file: Path) -> bytes:
    """The first bytes of a file, as many as an SQLite database begins with."""
    with open(file, "rb") as opened:
        return opened.read(100)


def databases(paths: list[str]) -> list[Path]:
    """The SQLite databases, *.db, among the files and below the directories."""
    files = [file for path in map(Path, paths) for file in (sorted(path.rglob("*.db")) if path.is_dir() else [path])]
    return [file for file in files if file.is_file() and not file.is_symlink() and header(file).startswith(MAGIC)]


def copy(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, what is only in its log included, with its owner and mode."""
    target.parent.mkdir(parents=True, exist_ok=True)
    log = Path(f"{source}-wal")
    # With a log that nobody has opened, its index cannot be made without writing there; the file alone is whole.
    closed = header(source)[18] == 2 and not log.exists()
    uri = f"file:{quote(str(source))}?mode=ro" + ("&immutable=1" if closed else "")
    with closing(sqlite3.connect(uri, uri=True)) as present, closing(sqlite3.connect(target)) as made:
        present.backup(made)
    if closed and log.exists():  # opened meanwhile
        target.unlink()
        copy(source, target)
        return
    shutil.copystat(source, target)
    owner = source.stat()
    os.chown(target, owner.st_uid, owner.st_gid)


def run(command: list[str | Path], secret: str = "", fine: tuple[int, ...] = (0,)) -> str:
    """Run a command that reads a secret from its input; returns what it wrote."""
    done = subprocess.run(command, input=secret, capture_output=True, text=True)
    if done.returncode not in fine:
        raise Failed(f"{command[0]}: {' '.join((done.stderr + done.stdout).split()) or done.returncode}")
    return done.stdout


def pack(paths: list[str], directory: Path) -> Path:
    """Pack files with the copies of their databases, which follow and take the databases' places when they are unpacked."""
    copies = [source.relative_to("/") for source in databases(paths)]
    for relative in copies:
        copy("/" / relative, directory / "copies" / relative)
    archive = directory / "archive.tar.zst"
    logs = [f"--exclude=*.db-{ending}" for ending in ("wal", "shm", "journal")]
    members = [path.lstrip("/") for path in paths] + (["-C", directory / "copies", *copies] if copies else [])
    # 1: a file changed while it was read; services replace theirs at once.
    run(["tar", "--zstd", "-cf", archive, *logs, "-C", "/", *members], fine=(0, 1))
    return archive


def store(config: dict, name: str, paths: list[str], replace: bool) -> int:
    """Store files as the object of a name; returns its size."""
    with tempfile.TemporaryDirectory(prefix="etl-backup.", dir="/var/tmp") as directory:
        archive = pack(paths, Path(directory))
        object_file = archive.with_suffix(".zst.enc")
        run(
            ["openssl", "enc", "-aes-256-cbc", "-pbkdf2", "-pass", "stdin", "-in", archive, "-out", object_file],
            config["passphrase"],
        )
        options = {
            "aws-sigv4": f"aws:amz:{config['region']}:s3",
            "user": f"{config['access_key']}:{config['secret_key']}",
            "url": f"{config['url']}/{name}.tar.zst.enc",
            "cacert": config["ca_file"],
        }
        answer = run(
            [
                "curl",
                "--silent",
                "--show-error",
                "--connect-timeout",
                "20",
                "--retry",
                "3",
                "--write-out",
                "%{http_code}",
            ]
            + ([] if replace else ["--header", "If-None-Match: *"])
            + ["--config", "-", "--upload-file", object_file],
            "".join(f"{option} = {json.dumps(value)}\n" for option, value in options.items()),
        )
        if answer.endswith("412"):
            raise Failed(LEFT.format(name))
        if not answer.endswith("200"):
            raise Failed(f"curl: {answer}")
        return object_file.stat().st_size


def write(target: Path, text: str) -> None:
    """Write a file as a whole, for everybody to read."""
    new = target.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o644)
    os.replace(new, target)


def record(config: dict, stored: dict[str, list[float]]) -> None:
    """Keep when this host stored each service, and how much it was, and leave it for node_exporter."""
    write(Path(config["record"]), json.dumps(stored) + "\n")
    lines = []
    for index, (name, text) in enumerate(METRICS.items()):
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        lines += [f'{name}{{service="{service}"}} {values[index]}' for service, values in stored.items()]
    write(Path(config["metrics"]), "\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description="Store files of this host's services in the object store.")
    parser.add_argument("--config", type=Path, default=Path("/etc/etl-file-backup.json"))
    parser.add_argument("--service", help="this service alone")
    parser.add_argument("--replace", action="store_true", help="also what a former host left")
    parser.add_argument("--name", help="store the paths under this name")
    parser.add_argument("paths", nargs="*", metavar="PATH")
    given = parser.parse_args()
    if bool(given.name) != bool(given.paths):
        parser.error("--name and PATH belong together")
    config = json.loads(given.config.read_text())
    services = config["services"]
    if given.service and given.service not in services:
        parser.error(f"--service is one of {', '.join(services)}")
    if given.name:
        store(config, given.name, given.paths, replace=True)
        return 0

    file, failed = Path(config["record"]), False
    former = json.loads(file.read_text()) if file.exists() else {}
    stored = {service: former.get(service, [0, 0]) for service in services}
    record(config, stored)
    for service in [given.service] if given.service else services:
        try:
            size = store(config, service, services[service], given.replace or stored[service][0] > 0)
        except (Failed, OSError, sqlite3.Error) as error:
            print(f"{service}: {error}", file=sys.stderr)
            failed = True
        else:
            stored[service] = [int(time.time()), size]
            record(config, stored)
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failed, OSError, sqlite3.Error) as error:
        sys.exit(str(error))
