"""The profile prod at full size on a real OpenStack (playbooks/cloud_lab.yml), whose hypervisor is nova's fake driver: everything is
asked of the real APIs, and nothing boots. The state is in a MinIO. The tests go one after the other over one environment."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from openstack.config import OpenStackConfig
from openstack.connection import Connection
from python_terraform import Terraform

from tests import stores
from tests.cloud.terraform import provider
from tests.cloud.test_mocks import REQUIRED
from tests.inventories import ROOT, contents, static

pytestmark = pytest.mark.slow

LAB = ROOT / "tests/cloud/lab/hosts.yml"
BUCKET = "states"
HOSTS = 20


def playbook(*arguments: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Run ansible-playbook; its output. Fails when it does."""
    program = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run(
        [program, *arguments],
        cwd=cwd,
        env=os.environ | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


class Prod:
    """A working copy of the repository whose environment prod describes the project `prod` of the lab's cloud."""

    def __init__(self, directory: Path, clouds: Path, state: str):
        self.root = directory / "repository"
        self.directory = self.root / "terraform/environments/prod"
        self.profile = self.directory / "terraform.tfvars"
        self.inventory = self.root / "inventories/prod/hosts.yml"
        self.clouds = directory / "clouds.yaml"
        self.clouds.write_text(clouds.read_text())
        self.state = stores.client(state)
        self.state.create_bucket(Bucket=BUCKET)
        self.env = {
            "OS_CLIENT_CONFIG_FILE": str(self.clouds),
            "TF_CLI_CONFIG_FILE": provider(),
            "CHECKPOINT_DISABLE": "1",
            "AWS_ACCESS_KEY_ID": stores.USER,
            "AWS_SECRET_ACCESS_KEY": stores.PASSWORD,
        }
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in filter(os.path.lexists, (ROOT / line for line in listed.stdout.splitlines())):
            copy = self.root / name.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, copy, follow_symlinks=False)
        (self.directory / "state.tfbackend").write_text(
            f'bucket = "{BUCKET}"\nregion = "us-east-1"\nendpoints = {{ s3 = "{state}" }}\n'
        )
        (self.directory / "operators.auto.tfvars").write_text(REQUIRED.split("{", 1)[1].rsplit("}", 1)[0])
        self.openstack, self.administrator = self.connect("prod"), self.connect("cloud_lab_admin")

    def connect(self, cloud: str) -> Connection:
        config = OpenStackConfig(config_files=[str(self.clouds)], load_envvars=False)
        return Connection(config=config.get_one(cloud))

    def cloud(self, *arguments: str) -> tuple[int, str, str]:
        """Run ansible/bin/cloud.py, as `make plan` and `make apply` do: (exit status, what it said, what it complained of)."""
        done = subprocess.run(
            [sys.executable, self.root / "ansible/bin/cloud.py", arguments[0], "prod", *arguments[1:]],
            env=os.environ | self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    def ok(self, *arguments: str) -> str:
        status, said, complained = self.cloud(*arguments)
        assert status == 0, said + complained
        return said

    def terraform(self) -> Terraform:
        return Terraform(working_dir=str(self.directory), is_env_vars_included=True)

    def change(self, before: str, after: str) -> None:
        text = self.profile.read_text()
        assert before in text
        self.profile.write_text(text.replace(before, after))

    def servers(self) -> dict[str, str]:
        """Name to id of the project's instances."""
        return {server.name: server.id for server in self.openstack.compute.servers()}

    def counted(self) -> Counter:
        """What the project has, by kind."""
        network = self.openstack.network
        mine = {"project_id": self.openstack.current_project_id}
        groups = [group for group in network.security_groups(**mine) if group.name != "default"]
        return Counter(
            {
                "servers": len(list(self.openstack.compute.servers())),
                "server groups": len(list(self.openstack.compute.server_groups())),
                "volumes": len(list(self.openstack.block_storage.volumes())),
                "ports": len(list(network.ports(**mine))),
                "floating IPs": len(list(network.ips(**mine))),
                "networks": len(list(network.networks(**mine))),
                "routers": len(list(network.routers(**mine))),
                "security groups": len(groups),
            }
        )


@pytest.fixture(scope="module")
def lab():
    """The OpenStack of tests/cloud/lab, made when it is not there and then removed again. Gives its clouds.yaml."""
    directory = Path(yaml.safe_load((LAB.parent / "group_vars/all/lab.yml").read_text())["lab_dir"])
    there = directory.exists()
    playbook("-i", LAB, "playbooks/cloud_lab.yml")
    try:
        yield directory / "clouds.yaml"
    finally:
        playbook("-i", LAB, "playbooks/cloud_lab.yml", "-e", f"lab_state={'stopped' if there else 'absent'}")


@pytest.fixture(scope="module")
def prod(lab, tmp_path_factory):
    with stores.minio() as url:
        prod = Prod(tmp_path_factory.mktemp("prod"), lab, url)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in prod.env.items():
                patch.setenv(name, value)
            yield prod


def test_preflight_refuses_what_the_project_may_not_have(prod):
    project, administrator = prod.openstack.current_project_id, prod.administrator
    groups = administrator.network.get_quota(project).security_groups
    instances = administrator.compute.get_quota_set(project).instances
    administrator.network.update_quota(project, security_groups=10)
    administrator.compute.update_quota_set(project, instances=19)
    try:
        status, said, complained = prod.cloud("plan")
    finally:
        administrator.network.update_quota(project, security_groups=groups)
        administrator.compute.update_quota_set(project, instances=instances)
    assert status == 1 and "20 instance" in said, said + complained
    # 9 where something has already made the project's group `default`.
    assert re.search(r"security groups: \d+ more are needed, the project may have (9|10) more\.", complained), (
        complained
    )
    assert f"instances: {HOSTS} more are needed, the project may have 19 more." in complained


def test_preflight_refuses_what_the_cloud_does_not_have(prod):
    profile = prod.profile.read_text()
    for name in ("debian-13-genericcloud", "m1.medium", '"public"'):
        prod.change(name, name.replace("m", "x").replace("public", "internet"))
    status, said, complained = prod.cloud("plan")
    prod.profile.write_text(profile)
    assert (status, said) == (1, "")
    assert "external_network 'internet' is not there; external networks: public." in complained
    assert (
        "flavor 'x1.xediux' (depot, master) is not there; flavors: m1.large, m1.medium, m1.small, m1.xlarge."
        in complained
    )
    assert "image 'debian-13-genericcloud'" not in complained


def test_apply_then_nothing_to_change(prod):
    said = prod.ok("apply", "--yes")
    assert "20 instance" in said
    assert prod.counted()["servers"] == HOSTS
    assert {server.status for server in prod.openstack.compute.servers()} == {"ACTIVE"}
    assert {volume.status for volume in prod.openstack.block_storage.volumes()} == {"in-use"}
    status, said, complained = prod.terraform().plan()  # with -detailed-exitcode: 2 when there is something to do
    assert status == 0, said + complained


def test_dynamic_and_rendered_inventory_agree(prod):
    rendered = contents(static(prod.inventory))
    assert len(rendered[1]) == HOSTS
    assert rendered == contents(static(ROOT / "inventories/prod/openstack.yml"))


def test_a_second_apply_at_the_same_time_is_refused(prod):
    """The first one replaces a worker, which takes it a while; the second comes as soon as the state is locked."""
    first: list[tuple[int, str, str]] = []
    replace = threading.Thread(target=lambda: first.append(prod.cloud("apply", "--yes", "--replace", "worker3")))
    before = prod.servers()
    replace.start()
    while replace.is_alive() and "Contents" not in prod.state.list_objects_v2(
        Bucket=BUCKET, Prefix="prod/terraform.tfstate.tflock"
    ):
        time.sleep(0.05)
    status, said, complained = prod.terraform().apply(skip_plan=True, input=False)
    replace.join()
    assert status == 1 and "Error acquiring the state lock" in complained, said + complained
    assert first[0][0] == 0, first
    after = prod.servers()
    assert {name for name in before if before[name] != after[name]} == {"worker3"}


def test_more_workers_touch_the_workers_alone(prod):
    before = prod.servers()
    prod.change("count    = 12", "count    = 14")
    said = prod.ok("apply", "--yes")
    assert said.splitlines()[0] == "4 to create", said
    after = prod.servers()
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"worker13", "worker14"}
    assert {"worker13", "worker14"} <= set(yaml.safe_load(prod.inventory.read_text())["all"]["hosts"])
    prod.change("count    = 14", "count    = 12")
    prod.ok("apply", "--yes")
    assert prod.servers() == before


def test_a_volume_grows_in_use(prod):
    before = prod.servers()
    prod.change('size = 200, mount = "/var/lib/nifi"', 'size = 210, mount = "/var/lib/nifi"')
    assert "1 to change" in prod.ok("apply", "--yes")
    volume = prod.openstack.block_storage.find_volume("prod-ingest1-data")
    assert (volume.size, volume.status) == (210, "in-use")
    assert prod.servers() == before


def test_a_replaced_node_keeps_its_address_and_its_volumes(prod):
    before, hosts = prod.servers(), prod.inventory.read_text()
    assert "replace     lake1; /var/lib/minio/drive1" in prod.ok("apply", "--yes", "--replace", "lake1")
    after = prod.servers()
    assert {name for name in before if before[name] != after[name]} == {"lake1"}
    attached = prod.openstack.compute.get_server(after["lake1"]).attached_volumes
    assert len(attached) == 4 and prod.inventory.read_text() == hosts


def test_report_shows_what_runs_and_what_drifted(prod):
    report = ("-i", "localhost,", "playbooks/cloud_report.yml", "-e", "environment_name=prod")
    assert "hosts.yml is up to date." in playbook(*report, cwd=prod.root)
    prod.openstack.compute.delete_server(prod.servers()["worker12"])
    prod.openstack.compute.wait_for_delete(prod.openstack.compute.get_server(prod.servers()["worker12"]))
    said = playbook(*report, cwd=prod.root)
    assert "worker11  " in said and "worker12" in said and "1 to create" in said
    prod.ok("apply", "--yes")


def test_rotated_credentials_need_no_state(prod):
    user = prod.openstack.current_user_id
    member = prod.connect("prod_member")
    second = member.identity.create_application_credential(user, "second")
    clouds = prod.clouds.read_text()
    described = yaml.safe_load(clouds)
    described["clouds"]["prod"]["auth"] = {
        "auth_url": described["clouds"]["prod"]["auth"]["auth_url"],
        "application_credential_id": second.id,
        "application_credential_secret": second.secret,
    }
    prod.clouds.write_text(yaml.safe_dump(described))
    assert "Nothing to change" in prod.ok("plan")
    member.identity.delete_application_credential(user, second)
    status, said, complained = prod.cloud("plan")
    assert status == 1 and "Cloud 'prod'" in complained, said + complained
    prod.clouds.write_text(clouds)
    assert "Nothing to change" in prod.ok("plan")


def test_destroy_needs_the_volumes_to_be_given_up_and_leaves_nothing(prod):
    status, said, complained = prod.cloud("destroy", "--yes", "--lose", "lake1")
    assert status == 1 and "protected data volumes" in complained, said + complained
    terraform = prod.terraform()
    kind = "module.nodes.openstack_blockstorage_volume_v3"
    for volume in prod.openstack.block_storage.volumes():
        name = volume.name.removeprefix("prod-")
        status, said, complained = terraform.cmd(
            "state mv", f'{kind}.protected["{name}"]', f'{kind}.disposable["{name}"]'
        )
        assert status == 0, said + complained
    prod.profile.write_text(prod.profile.read_text().replace('mount = "', 'protected = false, mount = "'))
    assert "Nothing to change" in prod.ok("plan")

    status, said, complained = prod.cloud("destroy", "--yes")
    assert status == 1 and "would be lost" in complained
    assert prod.counted()["servers"] == HOSTS
    # 0.10.1 passes -force, which Terraform no longer knows.
    status, said, complained = terraform.destroy(force=None, auto_approve=True)
    assert status == 0, said + complained
    assert +prod.counted() == Counter()
    state = json.loads(prod.state.get_object(Bucket=BUCKET, Key="prod/terraform.tfstate")["Body"].read())
    assert state["resources"] == []
