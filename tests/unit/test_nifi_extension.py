"""The NiFi extension passes its own tests, where a JDK that can read nifi-api (21 or newer) and Maven are installed."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def jdk() -> Path | None:
    """A JDK of version 21 or newer: JAVA_HOME and its like, or what the distribution installed."""
    named = [Path(value) for name, value in sorted(os.environ.items()) if name.startswith("JAVA_HOME")]
    for home in [*named, *sorted(Path("/usr/lib/jvm").glob("*"))]:
        release = home / "release"
        if (home / "bin/javac").exists() and release.exists():
            version = re.search(r'JAVA_VERSION="(\d+)', release.read_text())
            if version and int(version[1]) >= 21:
                return home
    return None


def test_the_extension_passes_its_tests(tmp_path):
    if not jdk() or not shutil.which("mvn"):
        pytest.skip("needs mvn and a JDK 21 or newer")
    source = tmp_path / "nifi-s3"
    shutil.copytree(
        ROOT / "ansible/artifacts/java/nifi-s3", source, ignore=shutil.ignore_patterns("target", "*.sha256")
    )
    done = subprocess.run(
        ["mvn", "--batch-mode", "--no-transfer-progress", "--quiet", "--projects", "processors", "test"],
        cwd=source,
        env=os.environ | {"JAVA_HOME": str(jdk())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
