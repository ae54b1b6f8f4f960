"""What stands between an operator and `terraform apply`: the reading of plans, the checks of the cloud, the questions asked."""

import json
import subprocess
from collections import Counter
from types import SimpleNamespace

import cloud
import cloud_plan
import pytest
from openstack.block_storage.v3.limits import Limits as StorageLimits
from openstack.compute.v2.flavor import Flavor
from openstack.compute.v2.limits import Limits as ComputeLimits
from openstack.compute.v2.server import Server
from openstack.image.v2.image import Image
from openstack.network.v2.network import Network
from openstack.network.v2.quota import QuotaDetails


def change(kind: str, index: str, actions: list[str], before: dict | None = None, after: dict | None = None) -> dict:
    """A resource change as `terraform show -json` has it."""
    return {
        "address": f'module.nodes.{kind}.this["{index}"]',
        "mode": "managed",
        "type": kind,
        "name": "this",
        "index": index,
        "change": {"actions": actions, "before": before, "after": after},
    }


def instance(name: str, actions: list[str], groups: str, **volumes: str) -> dict:
    metadata = {"environment": "dev", "groups": groups} | {
        f"volume_{key}": f"id:{mount}" for key, mount in volumes.items()
    }
    state = {"name": name, "flavor_name": "m1.large", "metadata": metadata}
    return change(
        cloud_plan.INSTANCE,
        name,
        actions,
        None if actions == ["create"] else state,
        None if actions == ["delete"] else state,
    )


def volume(name: str, actions: list[str], size: int = 100) -> dict:
    return change(
        cloud_plan.VOLUME,
        name,
        actions,
        {"size": size} if actions != ["create"] else None,
        {"size": size} if "create" in actions else None,
    )


def plan(*changes: dict) -> dict:
    return {"resource_changes": list(changes)}


REPLACE = ["delete", "create"]


def losses(*changes: dict) -> dict[str, list[str]]:
    return {node.name: node.losses for node in cloud_plan.endangered(plan(*changes))}


def test_replacing_a_node_keeps_what_is_on_its_volumes():
    [node] = cloud_plan.endangered(plan(instance("warehouse1", REPLACE, "postgresql", data="/var/lib/postgresql")))
    assert (node.name, node.instance, node.losses, node.kept) == ("warehouse1", "replace", [], ["/var/lib/postgresql"])


def test_volumes_below_a_roles_directory_count():
    drives = {f"drive{n}": f"/var/lib/minio/drive{n}" for n in (1, 2)}
    assert losses(instance("lake1", REPLACE, "minio", **drives)) == {"lake1": []}


def test_data_on_the_root_disk_is_lost_with_the_instance():
    assert losses(instance("lake1", ["delete"], "minio,node_exporter")) == {
        "lake1": ["/var/lib/minio on the root disk: the lake's objects"]
    }


def test_a_volume_elsewhere_does_not_cover_a_roles_data():
    assert losses(instance("lake1", REPLACE, "minio", logs="/var/lib/minio-logs"))["lake1"]


def test_what_a_backup_alone_brings_back_is_named(capsys):
    nodes = plan(
        instance("orchestrate1", REPLACE, "airflow,etl_release,spark"),
        instance("ingest1", REPLACE, "nifi", data="/var/lib/nifi"),
        instance("observe1", REPLACE, "alertmanager", metrics="/var/lib/prometheus"),
    )
    archived = {node.name: node.archived for node in cloud_plan.endangered(nodes)}
    assert archived == {
        "orchestrate1": ["/etc/airflow", "/opt/etl/dags.git", "/opt/etl/releases", "/opt/etl/rollbacks"],
        "ingest1": [],
        "observe1": [],
    }
    cloud.show(nodes)
    said = capsys.readouterr().out
    assert (
        "back up     orchestrate1: /etc/airflow" in said
        and "LOSES DATA" not in said
        and "back up     ingest1" not in said
    )


def test_a_destroyed_volume_is_lost_whatever_happens_to_the_instance():
    assert losses(volume("lake1-data", ["delete"])) == {"lake1": ["volume data (100 GB)"]}
    both = losses(
        instance("lake1", ["delete"], "minio", data="/var/lib/minio"), volume("lake1-data", ["create", "delete"], 20)
    )
    assert both == {"lake1": ["volume data (20 GB)"]}


def test_nothing_to_lose():
    harmless = [
        instance("worker1", ["delete"], "spark,spark_worker"),
        instance("lake1", ["update"], "minio"),
        instance("lake2", ["create"], "minio"),
        instance("lake3", ["no-op"], "minio"),
        volume("lake2-data", ["create"]),
        volume("lake1-data", ["update"]),
    ]
    assert losses(*harmless) == {"worker1": []}


def test_summary_counts_and_names():
    workers = [instance(f"worker{n}", ["create"], "spark") for n in range(1, 11)]
    lines = cloud_plan.summary(
        plan(*workers, instance("lake1", REPLACE, "minio"), instance("old1", ["no-op"], "minio"))
    )
    assert lines[0] == "10 to create, 1 to replace"
    assert "  replace     1 instance               lake1" in lines
    assert lines[1].endswith("and 2 more")
    assert cloud_plan.summary(plan()) == ["Nothing to change: the cloud is as the configuration says."]


def test_needs_count_what_is_added():
    found = cloud_plan.needs(
        plan(
            instance("worker1", ["create"], "spark"),
            instance("worker2", REPLACE, "spark"),
            volume("lake1-data", ["create"], 50),
            change(cloud_plan.VOLUME, "lake2-data", ["update"], {"size": 10}, {"size": 30}),
            change("openstack_networking_secgroup_rule_v2", "x", ["create"], None, {}),
        )
    )
    assert found == {
        "instances": 1,
        "flavor:m1.large": 1,
        "volumes": 1,
        "gigabytes": 70,
        "security group rules": 1,
    }


def test_a_volume_that_would_shrink_is_refused_before_the_cloud_refuses_it():
    smaller = change(cloud_plan.VOLUME, "lake1-data", ["update"], {"size": 30}, {"size": 10})
    larger = change(cloud_plan.VOLUME, "lake2-data", ["update"], {"size": 10}, {"size": 30})
    anew = volume("lake3-data", REPLACE)
    said = ["volume lake1-data has 30 GB and cannot shrink to 10."]
    assert cloud_plan.shrinking(plan(smaller, larger, anew)) == said


# A project of a cloud: the SDK's own resources, over answers that no cloud gave.
def project(**limits) -> SimpleNamespace:
    compute = {
        "maxTotalInstances": 10,
        "totalInstancesUsed": 6,
        "maxTotalCores": 20,
        "totalCoresUsed": 4,
        "maxTotalRAMSize": -1,
        "totalRAMUsed": 4096,
        "maxServerGroups": 10,
        "totalServerGroupsUsed": 0,
        "maxServerGroupMembers": 10,
    }
    storage = {
        "maxTotalVolumes": 10,
        "totalVolumesUsed": 0,
        "maxTotalVolumeGigabytes": 100,
        "totalGigabytesUsed": 40,
    }
    quota = {
        name: {"limit": 100, "used": 90} for name in ("floatingip", "port", "security_group", "security_group_rule")
    }
    quota |= {name: {"limit": -1, "used": 3} for name in ("network", "subnet", "router")}
    return SimpleNamespace(
        current_project_id="project",
        compute=SimpleNamespace(
            get_limits=lambda: ComputeLimits(absolute=compute | limits),
            flavors=lambda: [Flavor(name="m1.small", vcpus=1, ram=2048), Flavor(name="m1.large", vcpus=4, ram=8192)],
            servers=lambda details: [
                Server(
                    name="lake1",
                    status="ACTIVE",
                    flavor={"original_name": "m1.small"},
                    addresses={"dev": [{"addr": "10.20.0.6"}, {"addr": "203.0.113.6"}]},
                    metadata={"environment": "dev", "groups": "minio"},
                ),
                Server(name="else1", status="ACTIVE", metadata={"environment": "prod"}),
                Server(name="stranger", status="ERROR", metadata={}),
            ],
        ),
        block_storage=SimpleNamespace(get_limits=lambda: StorageLimits(absolute=storage)),
        network=SimpleNamespace(
            networks=lambda is_router_external: [Network(name="public")],
            get_quota=lambda project, details: QuotaDetails(**quota),
        ),
        image=SimpleNamespace(images=lambda status: [Image(name="debian-13"), Image(name="debian-12")]),
    )


def test_names_that_the_cloud_does_not_have():
    wanted = {
        "network": "internet",
        "image": "debian-13",
        "nodes": {
            "lake": {"count": 1, "flavor": "m1.small"},
            "worker": {"count": 3, "flavor": "m1.huge", "image": "debian-14"},
            "idle": {"count": 0, "flavor": "none", "image": "none"},
        },
    }
    assert cloud.missing_names(wanted, project()) == [
        "external_network 'internet' is not there; external networks: public.",
        "flavor 'm1.huge' (worker) is not there; flavors: m1.large, m1.small.",
        "image 'debian-14' (worker) is not there or not active; images: debian-12, debian-13.",
    ]
    wanted |= {"network": "public", "nodes": {"lake": {"count": 1, "flavor": "m1.small", "image": None}}}
    assert cloud.missing_names(wanted, project()) == []


def test_quotas_that_are_too_small():
    needs = Counter(
        {
            "instances": 5,
            "flavor:m1.large": 5,
            "gigabytes": 61,
            "volumes": 1,
            "ports": 10,
            "networks": 1,
            "security groups": 11,
        }
    )
    assert cloud.exceeded(needs, project()) == [
        "instances: 5 more are needed, the project may have 4 more.",
        "cores: 20 more are needed, the project may have 16 more.",
        "gigabytes: 61 more are needed, the project may have 60 more.",
        "security groups: 11 more are needed, the project may have 10 more.",
    ]
    assert cloud.exceeded(Counter({"instances": 4, "flavor:m1.small": 4}), project()) == []
    assert cloud.exceeded(Counter({"instances": 5}), project(maxTotalInstances=-1)) == []
    assert cloud.exceeded(Counter(), project()) == []


def test_a_server_group_has_bounds_of_its_own():
    nodes = {
        "worker": {"count": 12, "affinity": "soft-anti-affinity"},
        "lake": {"count": 12},
        "few": {"count": 10, "affinity": "affinity"},
    }
    needs = Counter({"instances": 1})
    said = "server group members: worker has 12 hosts, a server group of the project may have 10."
    assert cloud.overfull(needs, nodes, project()) == [said]
    assert cloud.overfull(needs, nodes, project(maxServerGroupMembers=12)) == []
    assert cloud.overfull(needs, nodes, project(maxServerGroupMembers=-1)) == []
    assert cloud.overfull(Counter(), nodes, project()) == []


def test_a_cloud_without_block_storage_is_not_asked_for_it():
    without = project()
    del without.block_storage
    assert cloud.exceeded(Counter({"instances": 1, "flavor:m1.small": 1}), without) == []


def test_a_cloud_that_is_not_in_clouds_yaml(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    (tmp_path / "clouds.yaml").write_text("clouds: {}\n")
    with pytest.raises(cloud.Problem, match="Cloud 'nowhere'.*\n.*clouds.yaml"):
        cloud.connect("nowhere")


def test_the_report_shows_the_environments_own_instances():
    lines = cloud.running("dev", project())
    assert lines == [
        "host   state   flavor    addresses              groups",
        "lake1  ACTIVE  m1.small  10.20.0.6 203.0.113.6  minio",
    ]


LOSING = plan(instance("lake1", ["delete"], "minio"), instance("warehouse1", ["delete"], "postgresql"))
SAFE = plan(instance("worker1", ["create"], "spark"))


@pytest.fixture
def terminal(monkeypatch):
    """Let the test answer as an operator at a terminal."""

    def answer(*answers: str):
        waiting = list(answers)
        monkeypatch.setattr(cloud.sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda _: waiting.pop(0))
        return waiting

    return answer


def test_a_safe_plan_asks_once(terminal):
    terminal("yes")
    cloud.confirm("dev", SAFE, yes=False, lose=[])
    terminal("no")
    with pytest.raises(cloud.Problem, match="Nothing was changed"):
        cloud.confirm("dev", SAFE, yes=False, lose=[])
    cloud.confirm("dev", SAFE, yes=True, lose=[])
    cloud.confirm("dev", plan(), yes=False, lose=[])


def test_data_is_lost_only_by_name(terminal, monkeypatch):
    monkeypatch.setattr(cloud.sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(cloud.Problem, match=r"lake1, warehouse1 would be lost.*--lose lake1 --lose warehouse1"):
        cloud.confirm("dev", LOSING, yes=True, lose=[])
    with pytest.raises(cloud.Problem):
        cloud.confirm("dev", LOSING, yes=True, lose=["lake1"])
    cloud.confirm("dev", LOSING, yes=True, lose=["lake1", "warehouse1"])
    terminal("yes")
    with pytest.raises(cloud.Problem):
        cloud.confirm("dev", LOSING, yes=True, lose=[])
    terminal("lake1 warehouse1")
    cloud.confirm("dev", LOSING, yes=False, lose=[])


def test_losses_are_shown_in_red(capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(cloud.sys.stdout, "isatty", lambda: True, raising=False)
    cloud.show(plan(instance("lake1", ["delete"], "minio"), instance("worker1", REPLACE, "spark")))
    text = capsys.readouterr().out
    assert "\033[1;31m  LOSES DATA  lake1: /var/lib/minio on the root disk: the lake's objects\033[0m" in text
    assert "\033[33m  replace     worker1\033[0m" in text


@pytest.fixture
def terraform(tmp_path, monkeypatch):
    """An environment whose Terraform answers what the test says: subcommand to (exit status, output, error)."""
    (tmp_path / "terraform.tfvars").write_text("")
    answers = {}
    calls = []

    def run(command, **options):
        calls.append(command[2:])
        status, out, error = answers.get(command[2], (0, "", ""))
        return subprocess.CompletedProcess(command, status, out, error)

    monkeypatch.setattr(cloud.subprocess, "run", run)
    monkeypatch.setattr(cloud.shutil, "which", lambda _: "terraform")
    made = cloud.Terraform("dev", tmp_path)
    made.answers, made.calls = answers, calls
    return made


def test_protected_volumes_refuse_with_a_way_out(terraform):
    terraform.answers["plan"] = (1, "", "Error: Instance cannot be destroyed\n  on main.tf")
    with pytest.raises(cloud.Problem, match="protected data volumes(.|\n)*cloud-replace-node.md"):
        terraform.plan()


def test_other_failures_are_shown_as_they_are(terraform):
    terraform.answers["plan"] = (1, "", "Error: Invalid value for variable")
    with pytest.raises(cloud.Problem, match="terraform plan failed.\nError: Invalid value for variable"):
        terraform.plan()


def test_an_unapplied_environment_has_no_inventory(terraform):
    terraform.answers["output"] = (0, "{}", "")
    with pytest.raises(cloud.Problem, match="apply it first"):
        cloud.write_inventory(terraform)


def test_the_inventory_is_written_but_never_over_something_else(terraform, tmp_path):
    terraform.answers["output"] = (
        0,
        '{"inventory": {"value": {"all": {"hosts": {"lake1": {"ansible_host": "a"}}}}}}',
        "",
    )
    terraform.answers["state"] = (0, '{"serial": 7, "lineage": "l", "resources": [{"secret": "s"}]}', "")
    path = cloud.write_inventory(terraform, tmp_path / "inventory")
    assert json.loads(path.with_name("terraform.json").read_text()) == {"serial": 7, "lineage": "l"}
    assert path.read_text().startswith("# Written by `make apply ENV=dev`") and "lake1" in path.read_text()
    assert cloud.write_inventory(terraform, tmp_path / "inventory") == path
    path.write_text("all: {}\n")
    with pytest.raises(cloud.Problem, match="move it away"):
        cloud.write_inventory(terraform, tmp_path / "inventory")


def test_unknown_environments_and_unset_states_are_named(monkeypatch):
    monkeypatch.setattr(cloud.shutil, "which", lambda _: "terraform")
    with pytest.raises(cloud.Problem, match="choose one of dev, prod, staging"):
        cloud.Terraform("qa")
    monkeypatch.setattr(cloud.shutil, "which", lambda _: None)
    with pytest.raises(cloud.Problem, match="terraform is not installed"):
        cloud.Terraform("dev")


def test_a_host_is_replaced_by_name(terraform):
    terraform.answers["show"] = (0, "{}", "")
    terraform.plan(*cloud.replaced(["worker3"]))
    assert '-replace=module.nodes.openstack_compute_instance_v2.this["worker3"]' in terraform.calls[0]


def test_a_misspelt_host_is_not_taken_for_nothing_to_replace(terraform, monkeypatch):
    wanted = {"cloud": "dev", "network": "public", "image": "debian-13", "nodes": {}}
    monkeypatch.setattr(cloud, "connect", lambda _: project())
    monkeypatch.setattr(terraform, "init", lambda: None)
    monkeypatch.setattr(terraform, "wanted", lambda: wanted)
    terraform.answers["show"] = (0, json.dumps(plan(instance("worker3", REPLACE, "spark"))), "")
    cloud.prepare(terraform, replace=["worker3"])
    with pytest.raises(cloud.Problem, match="--replace: dev has no host worker33"):
        cloud.prepare(terraform, replace=["worker3", "worker33"])
