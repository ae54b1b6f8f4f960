"""Real object stores for tests and benchmarks, on loopback, in memory where there is a place for it.

Their programs come from the depot's archives where it has them, else they are built once from their Go module (its go.sum pins all
of it) into ${XDG_CACHE_HOME:-~/.cache}/etl-cloud/stores.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from minio import MinioAdmin
from minio.credentials import StaticProvider

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "etl-cloud"
MANIFESTS = {"minio": ROOT / "ansible/artifacts/go/minio", "fake-gcs-server": Path(__file__).parent / "fake-gcs-server"}
# The depot's caches and flags (roles/artifacts/files/build.sh): what one of the two compiled, the other only links.
BUILD = {
    "GOPATH": str(CACHE / "depot/.cache/go"),
    "GOCACHE": str(CACHE / "depot/.cache/go-build"),
    "GOFLAGS": "-modcacherw -buildvcs=false",
    "GOTOOLCHAIN": "local",
    "CGO_ENABLED": "0",
}
USER, PASSWORD = "tester", "tester-of-stores"


def program(name: str) -> Path:
    """Path of a store's program, made first when it is not there yet; RuntimeError says what is missing."""
    manifest = MANIFESTS[name]
    key = hashlib.sha256(b"".join((manifest / file).read_bytes() for file in ("go.mod", "go.sum"))).hexdigest()[:12]
    place = CACHE / "stores" / f"{name}-{key}" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            made = place.parent / "made"
            if not _unpack(name, manifest, made):
                _build(name, manifest, made)
            made.replace(place)
    return place


def _unpack(name: str, manifest: Path, made: Path) -> bool:
    """Take the program out of the depot's archive of the same manifest."""
    version = re.search(rf"/{name} v[0-9.]+-(\d+)", (manifest / "go.mod").read_text())
    archives = sorted((CACHE / "depot").glob(f"{name}-{version[1]}*.tar.zst")) if version else []
    if not archives or not shutil.which("zstd"):
        return False
    with made.open("wb") as out:
        done = subprocess.run(
            ["tar", "--zstd", "--extract", "--to-stdout", "--file", archives[-1], f"./bin/{name}"], stdout=out
        )
    made.chmod(0o755)
    return done.returncode == 0


def _build(name: str, manifest: Path, made: Path) -> None:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if not go:
        raise RuntimeError(f"{name} is built with Go: install golang, or fill the depot (playbooks/artifacts.yml)")
    done = subprocess.run(
        [go, "build", "-trimpath", "-mod=readonly", "-ldflags=-s -w", "-o", made, "tool"],
        cwd=manifest,
        env=BUILD | os.environ,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"building {name} failed:\n{done.stderr}")


def client(url: str, user: str = USER, password: str = PASSWORD, **config: Any) -> Any:
    """An S3 client of a MinIO server, as its own user if no other is named; `config` is botocore's."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=user,
        aws_secret_access_key=password,
        region_name="us-east-1",
        config=Config(**config),
    )


def add_user(url: str, name: str, password: str, policy: dict[str, Any]) -> None:
    """Give a MinIO server a user whose rights are those of a policy, which gets the user's name."""
    given = StaticProvider(USER, PASSWORD)
    admin = MinioAdmin(endpoint=url.removeprefix("http://"), credentials=given, secure=False)
    admin.policy_add(name, policy=policy)
    admin.user_add(name, password)
    admin.policy_set(name, user=name)


@contextmanager
def minio() -> Iterator[str]:
    """A MinIO server; yields its URL. Its user is USER, its password PASSWORD."""
    with tempfile.TemporaryDirectory(prefix="etl-minio-", dir=_memory()) as directory:
        port, console = _port(), _port()
        command = [program("minio"), "server", "--quiet", "--address", f"127.0.0.1:{port}"]
        command += ["--console-address", f"127.0.0.1:{console}", f"{directory}/data"]
        settings = {"MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD, "MINIO_BROWSER": "off"}
        settings |= {"MINIO_UPDATE": "off", "MINIO_CI_CD": "on", "HOME": directory, "PATH": "/usr/bin:/bin"}
        with _running(command, settings, f"http://127.0.0.1:{port}", "/minio/health/ready", directory) as url:
            yield url


@contextmanager
def fake_gcs() -> Iterator[str]:
    """A server of Google Cloud Storage's API, in memory; yields its URL."""
    with tempfile.TemporaryDirectory(prefix="etl-gcs-") as directory:
        port = _port()
        command = [program("fake-gcs-server"), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"]
        command += ["-port", str(port), "-public-host", f"127.0.0.1:{port}", "-log-level", "error"]
        with _running(
            command, {"HOME": directory}, f"http://127.0.0.1:{port}", "/_internal/healthcheck", directory
        ) as url:
            yield url


@contextmanager
def _running(command: list, settings: dict[str, str], url: str, health: str, directory: str) -> Iterator[str]:
    log = Path(directory) / "log"
    with log.open("w") as out, subprocess.Popen(command, env=settings, stdout=out, stderr=out, cwd=directory) as server:
        try:
            for _ in range(300):
                try:
                    with urllib.request.urlopen(url + health, timeout=5):
                        break
                except OSError:
                    if server.poll() is not None:
                        break
                    time.sleep(0.1)
            else:
                server.kill()
            if server.poll() is not None:
                raise RuntimeError(f"{command[0]} did not come up:\n{log.read_text()}")
            yield url
        finally:
            server.kill()


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
