"""Two releases that differ in a unit, a DAG, a flow and a migration: forth, back, interrupted, refused, failed. With data: test_drills."""

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from spoil import PORT, add_flow, differ

from tests.deployed import ROOT, Deployed, Play

pytestmark = pytest.mark.slow


@dataclass
class Line:
    """A clone of the checkout with commits on top, deployed to the platform from there."""

    platform: Deployed
    root: Path

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        done = subprocess.run(
            ["git", "-C", self.root, *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, message: str) -> str:
        """Commit everything; returns the release's id."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")[:12]

    def play(self, name: str, *arguments: str) -> Play:
        return self.platform.playbook(name, *arguments, root=self.root, timeout=900)

    def deploy(self) -> Play:
        return self.play("playbooks/release.yml")

    def roll_back(self, to: str, *arguments: str) -> Play:
        return self.play("playbooks/rollback.yml", "-e", f"to={to}", *arguments)


class Host:
    """What the platform has, asked on its hosts."""

    def __init__(self, platform: Deployed):
        self.platform = platform
        self.release, self.nifi = (platform.environment.hosts(group)[0] for group in ("etl_release", "nifi"))

    def current(self) -> str:
        return self.platform.run(self.release, "readlink /opt/etl/releases/current").strip()

    def bundle(self) -> str:
        return json.loads(self.platform.run(self.release, "git --git-dir /opt/etl/dags.git show main:RELEASE"))["id"]

    def units(self) -> str:
        return self.platform.run(self.release, "find /etc/systemd/system -name 'etl-probe*' | sort")

    def listens(self, port: int) -> bool:
        return f":{port}" in self.platform.run(self.nifi, "ss -Hltn")

    def journal(self) -> dict:
        """The newest rollback's journal, {} before there is one."""
        shown = self.platform.run(
            self.release, "cat $(ls -t /opt/etl/rollbacks/*.json 2>/dev/null | head -1) /dev/null"
        )
        return json.loads(shown or "{}")

    def content(self) -> dict:
        """All that two releases of this test differ in."""
        return {
            "current": self.current(),
            "bundle": self.bundle(),
            "units": self.units(),
            "probe flow": self.listens(PORT),
            "flows": self.flows(),
        }

    def flows(self) -> list[str]:
        """Names and versions of the deployed flows, as NiFi tells them."""
        command = (
            "curl -s --cacert /usr/local/share/ca-certificates/etl-cloud-ca.crt --cert /etc/nifi/admin/nifi-admin.crt"
            " --key /etc/nifi/admin/nifi-admin.key https://$(hostname).etl.internal:8443/nifi-api/flow/process-groups/root"
        )
        groups = json.loads(self.platform.run(self.nifi, command))["processGroupFlow"]["flow"]["processGroups"]
        return sorted(f"{group['component']['name']}: {group['component']['comments']}" for group in groups)


@pytest.fixture(scope="module")
def host(platform) -> Host:
    return Host(platform)


@pytest.fixture(scope="module")
def line(platform, tmp_path_factory):
    """The commit that is checked out, deployed; at the end it is in service again."""
    root = tmp_path_factory.mktemp("line") / "checkout"
    subprocess.run(["git", "clone", "--quiet", ROOT, root], check=True)
    line = Line(platform, root)
    good = line.git("rev-parse", "HEAD")
    deployed = line.deploy()
    assert deployed.returncode == 0, deployed.failed or deployed.stderr
    yield line
    line.git("checkout", "--quiet", "--force", "--detach", good)
    again = line.play("playbooks/release.yml", "-e", "force=true")
    assert again.returncode == 0, again.failed or again.stderr


@pytest.fixture(scope="module")
def good(line, host) -> str:
    return host.current()


@pytest.fixture(scope="module")
def newer(line, good) -> str:
    """A release that differs in all of them."""
    differ(line.root)
    return line.commit("a newer release")


@pytest.fixture(scope="module")
def before(good, host, warehouse) -> dict:
    """What the good release's platform has."""
    return host.content() | {"published": warehouse.contents(), "level": level_of(warehouse)}


@pytest.fixture(scope="module")
def forth(before, newer, line) -> str:
    """The newer release, deployed."""
    deployed = line.deploy()
    assert deployed.returncode == 0, deployed.failed or deployed.stderr
    return newer


def level_of(warehouse) -> int:
    return warehouse.one("select max(level) as level from etl.migration")["level"]


def state_of(warehouse, release: str) -> dict:
    return warehouse.one("select state, reason, manifest from etl.release where release = %s", release)


def test_the_newer_release_brought_all_of_it(forth, before, host, warehouse):
    now = host.content() | {"published": warehouse.contents(), "level": level_of(warehouse)}
    assert now["current"] == now["bundle"] == forth
    assert "etl-probe.timer" in now["units"] and now["probe flow"] and now["level"] == before["level"] + 1
    assert now["flows"] != before["flows"] and len(now["flows"]) == len(before["flows"]) + 1
    manifest = state_of(warehouse, forth)["manifest"]
    assert manifest["replaces"] == before["current"] and manifest["migration"] == now["level"]
    assert {"etl-probe.service", "etl-probe.timer"} <= set(manifest["owned"]["units"])
    assert "probe" in manifest["owned"]["dags"]


def test_deploying_it_again_changes_nothing(forth, line):
    again = line.deploy()
    assert again.returncode == 0, again.failed or again.stderr
    assert again.changed == {}


def test_a_check_prints_the_plan_and_changes_nothing(forth, good, line, host):
    before = host.content()
    plan = line.roll_back(good, "-e", "data=keep", "--check")
    assert plan.returncode == 0, plan.failed or plan.stderr
    document = json.loads(plan.result("Plan")["stdout"])
    told = {each["layer"]: each["what"] for each in document["layers"]}
    assert (
        "removes probe" in told["NiFi flows"] and "removes probe" in told["DAGs"] and "etl-probe.timer" in told["units"]
    )
    assert "takes back" in told["schema"] and document["refused"] == []
    assert host.content() == before


def test_killed_on_its_way_it_comes_to_its_end_when_run_again(
    forth, good, line, host, platform, before, warehouse, object_store
):
    with subprocess.Popen(
        [ROOT / ".venv/bin/ansible-playbook", "-i", platform.environment.inventory, "playbooks/rollback.yml"]
        + ["-e", f"to={good}", "-e", "data=keep", "-e", "reason='it was a test'"],
        cwd=line.root,
        env=os.environ | {"ANSIBLE_CONFIG": str(line.root / "ansible.cfg")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        while "schema" not in host.journal().get("done", {}) and process.poll() is None:
            time.sleep(1)
        time.sleep(10)  # into the release's own playbook
        os.killpg(process.pid, signal.SIGKILL)
        output = process.stdout.read()
    assert host.journal().get("finished_at", "") is None, output[-3000:]
    other = line.roll_back(good, "-e", "data=restore")
    assert other.returncode != 0 and "has not come to its end" in str(other.failed)
    done = line.roll_back(good, "-e", "data=keep", "-e", "reason='it was a test'")
    assert done.returncode == 0, done.failed or done.stderr
    assert host.content() | {"published": warehouse.contents(), "level": level_of(warehouse)} == before
    assert warehouse.rows("select from pg_tables where schemaname = 'dwh' and tablename = 'probe'") == []
    assert state_of(warehouse, forth)["state"] == "bad" and state_of(warehouse, forth)["reason"] == "it was a test"
    assert state_of(warehouse, good)["state"] == "good"
    row = warehouse.one("select state, steps from etl.rollback order by started_at desc limit 1")
    assert row["state"] == "done" and {"hold", "evidence", "code", "verify"} <= set(row["steps"])


def test_the_evidence_is_kept(forth, good, host, platform, object_store):
    journal = host.journal()
    if journal.get("plan", {}).get("from") != forth:
        pytest.fail("the rollback before left no journal")
    prefix = f"{forth}/evidence/{journal['id']}/"
    bucket = platform.environment.value("platform_s3_buckets")["releases"]
    listed = object_store.list_objects_v2(Bucket=bucket, Prefix=prefix)
    names = {entry["Key"].removeprefix(prefix) for entry in listed["Contents"]}
    assert names >= {
        "plan.json",
        "ledger.json",
        "airflow.json",
        "logs.tar.gz",
        "tree.tar.gz",
        "flows/probe.json",
        "flows/flights.json",
    }


def test_what_was_taken_back_is_refused(forth, good, line, host):
    line.git("checkout", "--quiet", "--force", forth)
    deployed = line.deploy()
    assert deployed.returncode != 0 and "was taken back and is marked bad" in str(deployed.failed)
    back = line.roll_back("0" * 12, "-e", "data=keep")
    assert back.returncode != 0 and "is unknown" in str(back.failed)
    assert host.current() == good


def test_a_failed_deployment_leaves_the_release_before_whole(good, line, host, before, warehouse):
    """Its migration and two of its flows are in place when the third flow fails."""
    line.git("checkout", "--quiet", "--force", "--detach", good)
    differ(line.root)
    add_flow(line.root, "zprobe", PORT - 1, ("probe.missing",))
    failing = line.commit("a release that cannot be deployed")
    deployed = line.deploy()
    assert deployed.returncode != 0
    assert f"release {good} serves on" in str(deployed.failed) and "probe.missing" in str(deployed.failed), (
        deployed.failed
    )
    assert host.content() | {"published": warehouse.contents(), "level": level_of(warehouse)} == before
    bad = state_of(warehouse, failing)
    assert bad["state"] == "bad" and bad["manifest"]["because"] == "deployment" and "probe.missing" in bad["reason"]
