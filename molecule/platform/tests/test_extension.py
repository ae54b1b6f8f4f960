"""The NiFi extension's own JUnit tests, run where the depot builds it: the JDK that it needs is there."""

import re
import shlex
import subprocess

from tests.deployed import ROOT


def test_extension_passes_its_tests(platform):
    host = platform.environment.hosts("artifacts")[0]
    source = subprocess.run(
        ["tar", "-c", "--exclude=target", "-C", str(ROOT / "ansible/artifacts/java"), "nifi-s3"],
        capture_output=True,
        check=True,
    ).stdout
    command = (
        "set -e; work=$(mktemp -d); trap 'rm -rf $work' EXIT; tar -x -C $work; cd $work/nifi-s3; "
        "mvn --batch-mode --no-transfer-progress -Dmaven.repo.local=/var/lib/etl-depot/.cache/maven test"
    )
    done = subprocess.run(
        [*platform.environment.ssh(host), f"sudo sh -c {shlex.quote(command)}"],
        input=source,
        capture_output=True,
        timeout=900,
    )
    output = done.stdout.decode()
    assert done.returncode == 0, output[-4000:]
    (run,) = re.findall(
        r"^\[\S*(?:INFO|WARNING)\S*\] \S*Tests run: (\d+), Failures: 0, Errors: 0, Skipped: 0$", output, re.M
    )
    assert int(run) > 0
