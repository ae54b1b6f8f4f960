"""`make plan` and `make apply` as an operator runs them: the real provider and SDK, credentials from clouds.yaml, a stub of a cloud."""

import re
import shutil

import cloud
import cloud_plan
import pytest
import yaml

from tests.cloud import stub
from tests.cloud.terraform import provider
from tests.cloud.test_mocks import REQUIRED


@pytest.fixture
def operator(request, tree, tmp_path, monkeypatch):
    """An operator's working copy, all filled in for dev. Gives its directory, what the stub made, and what it could not answer.

    The stub's project has OpenStack's default quotas, or the number of security groups that the test asks for.
    """
    copy = tmp_path / "repository"
    shutil.copytree(tree.parent, copy, symlinks=True, ignore=shutil.ignore_patterns(".terraform*"))
    environments = copy / "terraform/environments"
    (environments / "dev/state.tfbackend").write_text("")
    (environments / "dev/operators.auto.tfvars").write_text(REQUIRED.split("{", 1)[1].rsplit("}", 1)[0])
    monkeypatch.setattr(cloud, "ENVIRONMENTS", environments)
    monkeypatch.setattr(cloud, "ROOT", copy)
    monkeypatch.setenv("TF_CLI_CONFIG_FILE", provider())
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    monkeypatch.chdir(tmp_path)
    with stub.openstack(getattr(request, "param", 10)) as (url, made, unanswered):
        auth = {
            "auth_url": f"{url}/identity/v3",
            "application_credential_id": "id",
            "application_credential_secret": "secret",
        }
        clouds = {"dev": {"auth_type": "v3applicationcredential", "auth": auth, "region_name": "one"}}
        (tmp_path / "clouds.yaml").write_text(yaml.safe_dump({"clouds": clouds}))
        yield environments / "dev", made, unanswered


def test_plan_of_an_empty_project(operator, capsys):
    directory, made, unanswered = operator
    status = cloud.main(["plan", "dev"])
    said = capsys.readouterr()
    assert unanswered == []
    assert "6 instance               compute1, ingest1, lake1, observe1, sources1, warehouse1" in said.out, said.err
    assert "to create" in said.out and "LOSES DATA" not in said.out
    assert status == 1
    assert re.search(r"security groups: \d+ more are needed, the project may have 9 more\.", said.err), said.err
    assert "instances" not in said.err


def test_names_are_checked_before_anything_is_planned(operator, capsys):
    directory, made, unanswered = operator
    values = directory / "terraform.tfvars"
    values.write_text(values.read_text().replace("m1.large", "m9.huge").replace("debian-13-genericcloud", "debian-14"))
    assert cloud.main(["plan", "dev"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "flavor 'm9.huge' (compute) is not there; flavors: m1.large, m1.medium, m1.small, m1.xlarge." in said.err
    assert "image 'debian-14'" in said.err and "images: debian-13-genericcloud." in said.err


@pytest.mark.slow
@pytest.mark.parametrize("operator", [50], indirect=True)
def test_from_nothing_to_machines_and_back(operator, capsys):
    directory, made, unanswered = operator
    inventory = cloud.ROOT / "inventories/dev/hosts.yml"

    assert cloud.main(["apply", "dev", "--yes"]) == 0, capsys.readouterr().err
    assert unanswered == []
    assert sorted(server["name"] for server in made["servers"].values()) == list(
        yaml.safe_load(inventory.read_text())["all"]["hosts"]
    )
    assert len(made["volumes"]) == 2 and all(volume["status"] == "in-use" for volume in made["volumes"].values())
    first = inventory.read_text()

    capsys.readouterr()
    assert cloud.main(["plan", "dev"]) == 0
    assert "Nothing to change" in capsys.readouterr().out
    assert cloud.main(["report", "dev"]) == 0
    said = capsys.readouterr().out
    assert "warehouse1  ACTIVE" in said and "hosts.yml is up to date." in said

    # What a lost state knew is imported (docs/runbooks/cloud-lost-state.md): nothing is made, replaced or destroyed for it.
    terraform = cloud.Terraform("dev")
    for kind, name, address in (
        ("security-groups", "dev-member", "module.network.openstack_networking_secgroup_v2.member"),
        ("security-groups", "dev-minio", 'module.network.openstack_networking_secgroup_v2.role["minio"]'),
        ("ports", "dev-lake1", 'module.nodes.openstack_networking_port_v2.this["lake1"]'),
        ("servers", "lake1", f'module.nodes.{cloud_plan.INSTANCE}.this["lake1"]'),
    ):
        [found] = [item["id"] for item in made[kind].values() if item.get("name") == name]
        terraform.run("state", "rm", address)
        terraform.run("import", address, found)
    taken_in = terraform.plan()
    assert {cloud_plan.verb(change) for change in cloud_plan.changes(taken_in)} <= {"change"}, cloud_plan.summary(
        taken_in
    )

    # A node made anew keeps address and volume; nothing about that is red.
    before = {server["name"]: server["id"] for server in made["servers"].values()}
    assert cloud.main(["apply", "dev", "--yes", "--replace", "lake1"]) == 0
    assert "replace     lake1; /var/lib/minio stay on their volumes" in capsys.readouterr().out
    after = {server["name"]: server["id"] for server in made["servers"].values()}
    assert {name for name in before if before[name] != after[name]} == {"lake1"}
    assert inventory.read_text() == first

    # Data goes only when its hosts are named: on volumes that may be thrown away, and on root disks.
    named = [word for name in ("ingest1", "lake1", "observe1", "warehouse1") for word in ("--lose", name)]
    assert cloud.main(["destroy", "dev", "--yes"]) == 1
    assert " ".join(named) in capsys.readouterr().err
    assert len(made["servers"]) == 6
    assert cloud.main(["destroy", "dev", "--yes", *named]) == 0
    assert {kind: items for kind, items in made.items() if items and kind != "security-group-rules"} == {}
    assert not inventory.exists()
