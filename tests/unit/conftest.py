"""What unit tests share."""

import shutil
import subprocess

import pytest

from tests.deployed import ROOT


@pytest.fixture(scope="session")
def promtool() -> str:
    """promtool: the installed one, or that of Debian's package, unpacked and not installed: it would start a server."""
    if found := shutil.which("promtool"):
        return found
    cache = ROOT / ".cache/promtool"
    if not (cache / "usr/bin/promtool").exists():
        cache.mkdir(parents=True, exist_ok=True)
        names = subprocess.run(
            ["apt-cache", "--generate", "pkgnames", "prom"], check=True, capture_output=True, text=True
        ).stdout.split()
        package = "promtool" if "promtool" in names else "prometheus"
        subprocess.run(["apt-get", "download", package], cwd=cache, check=True, capture_output=True)
        for archive in cache.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive, cache], check=True)
            archive.unlink()
    return str(cache / "usr/bin/promtool")
