"""Terraform's modules and the environments' profiles over a mocked provider: no cloud, yet real plans and states."""

import json
import subprocess
from functools import cache
from pathlib import Path

import cloud
import cloud_plan
import pytest
import yaml

from tests.cloud.terraform import initialised, terraform
from tests.inventories import ROOT, contents, dynamic, server, static

ENVIRONMENTS = ["dev", "staging", "prod"]
MODULES = ["network", "nodes", "inventory"]

REQUIRED = """
variables {
  operator_cidrs  = ["198.51.100.0/24"]
  ssh_public_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOq operator"]
}
"""
MOCKS = """
mock_provider "openstack" {
  mock_resource "openstack_networking_port_v2" {
    defaults = { all_fixed_ips = ["10.20.0.10"] }
  }
  mock_data "openstack_networking_network_v2" {
    defaults = { id = "external" }
  }
}
"""
# A worker more; a host less; data volumes taken away.
SCENARIOS = {
    "more": 'merge(var.nodes, { GROUP = merge(var.nodes["GROUP"], { count = var.nodes["GROUP"].count + 1 }) })',
    "fewer": "merge(var.nodes, { GROUP = merge(var.nodes.GROUP, { count = 0 }) })",
    "disks": '{ for name, node in var.nodes : name => { for key, value in node : key => value if key != "volumes" } }',
}


class Runs:
    """What `terraform test -json -verbose` said about the runs of one file."""

    def __init__(self, directory: Path, text: str):
        path = initialised(directory) / "tests/profile.tftest.hcl"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        done = terraform(directory, "test", "-json", "-verbose", "-filter=tests/profile.tftest.hcl")
        self.plans, self.states, self.status, self.errors = {}, {}, {}, []
        for message in map(json.loads, done.stdout.splitlines()):
            run = message.get("@testrun", "")
            match message["type"]:
                case "test_plan":
                    self.plans[run] = message["test_plan"]
                case "test_state":
                    self.states[run] = message["test_state"]
                case "test_run" if "status" in message["test_run"]:
                    self.status[run] = message["test_run"]["status"]
                case "diagnostic" if message["diagnostic"]["severity"] == "error":
                    self.errors.append((run, f"{message['diagnostic']['summary']}: {message['diagnostic']['detail']}"))


@cache
def profile(tree: Path, environment: str) -> Runs:
    """The environment planned, applied, planned again, and planned with each scenario."""
    group = "worker" if environment != "dev" else "compute"
    runs = "\n".join(
        ['run "first" {\n  command = plan\n}', 'run "applied" {}', 'run "again" {\n  command = plan\n}']
        + [
            f'run "{name}" {{\n  command = plan\n  variables {{\n    nodes = {nodes.replace("GROUP", group)}\n  }}\n}}'
            for name, nodes in SCENARIOS.items()
            if (environment, name) != ("dev", "more")  # its one host of that group has roles that stay single
        ]
    )
    return Runs(tree / "environments" / environment, MOCKS + REQUIRED + runs)


def resources(state: dict, kind: str) -> dict[str, dict]:
    """Index to values of the state's resources of a type."""
    found = {}

    def walk(module: dict) -> None:
        for resource in module.get("resources", []):
            if resource["type"] == kind and resource["mode"] == "managed":
                found[resource.get("index", resource["name"])] = resource["values"]
        for child in module.get("child_modules", []):
            walk(child)

    walk(state["root_module"])
    return found


def inventory(runs: Runs) -> dict:
    return runs.states["applied"]["outputs"]["inventory"]["value"]


def test_formatted():
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-recursive", "-diff", ROOT / "terraform"], capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("module", MODULES)
def test_module(tree, module):
    done = terraform(initialised(tree / "modules" / module), "test", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environment_is_valid(tree, environment):
    done = terraform(initialised(tree / "environments" / environment), "validate", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_profile_applies_and_then_stays(tree, environment):
    runs = profile(tree, environment)
    assert [runs.status.get(name) for name in ("first", "applied", "again")] == ["pass"] * 3, runs.errors
    assert cloud_plan.changes(runs.plans["again"]) == []


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_profile_has_every_group_of_the_platform(tree, environment):
    found = cloud_plan.groups_of(inventory(profile(tree, environment)))
    lab = yaml.safe_load((ROOT / "inventories/local/hosts.yml").read_text())
    wanted = set(cloud_plan.groups_of(lab)) - {"sources", "grafana", "kibana", "logstash"}
    assert wanted <= set(found), f"no host has {sorted(wanted - set(found))}: see terraform.tfvars of {environment}"
    assert found["node_exporter"] == found["log_shipper"] == found["all"]


# Groups of the lab that have others as their children.
BESIDE = {
    "pgbackrest": ["postgresql"],
    "postgres_exporter": ["postgresql"],
    "statsd_exporter": ["airflow"],
    "elasticsearch_exporter": ["elasticsearch"],
    "file_backup": ["nifi", "airflow", "etl_release", "rollback_notifier", "alertmanager"],
}


def test_dev_is_the_lab(tree):
    found = cloud_plan.groups_of(inventory(profile(tree, "dev")))
    lab = yaml.safe_load((ROOT / "inventories/local/hosts.yml").read_text())
    assert found["all"] == set(lab["all"]["hosts"])
    assert {name: hosts for name, hosts in found.items() if hosts} == {
        name: hosts for name, hosts in cloud_plan.groups_of(lab).items() if hosts
    } | {name: set().union(*map(found.get, beside)) for name, beside in BESIDE.items()}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_rendered_and_dynamic_inventory_agree(tree, environment, tmp_path, monkeypatch):
    runs = profile(tree, environment)
    state = runs.states["applied"]
    ports = resources(state, cloud_plan.PORT)
    public = resources(state, "openstack_networking_floatingip_v2")
    servers = [
        server(name, ports[name]["all_fixed_ips"][0], values["metadata"], public.get(name, {}).get("address"))
        for name, values in resources(state, cloud_plan.INSTANCE).items()
    ]
    path = tmp_path / "hosts.yml"
    path.write_text(cloud_plan.render(environment, inventory(runs)))
    assert contents(static(path)) == contents(dynamic(monkeypatch, servers, environment))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_first_plan_tells_what_it_needs(tree, environment):
    runs = profile(tree, environment)
    needs = cloud_plan.needs(runs.plans["first"])
    hosts = inventory(runs)["all"]["hosts"]
    assert needs["instances"] == needs["ports"] == len(hosts)
    assert sum(count for name, count in needs.items() if name.startswith("flavor:")) == len(hosts)
    assert needs["volumes"] == sum(len(host.get("storage_volumes", [])) for host in hosts.values())
    assert needs["security group rules"] > 30


def test_the_documentation_names_the_quota_that_prod_needs(tree):
    needs = cloud_plan.needs(profile(tree, "prod").plans["first"])
    said = f"{needs['security groups']} security groups (OpenStack's default is 10) with {needs['security group rules']} rules for `prod`"
    assert said in (ROOT / "docs/installation-openstack.md").read_text()


@pytest.mark.parametrize("environment", ["staging", "prod"])
def test_another_worker_touches_the_workers_alone(tree, environment):
    plan = profile(tree, environment).plans["more"]
    touched = {(change["index"], cloud_plan.verb(change)) for change in cloud_plan.changes(plan)}
    count = len([name for name in inventory(profile(tree, environment))["all"]["hosts"] if name.startswith("worker")])
    assert touched == {(f"worker{count + 1}", "create")}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_hosts_without_data_go_without_red(tree, environment):
    nodes = cloud_plan.endangered(profile(tree, environment).plans["fewer"])
    assert nodes and all(node.instance == "destroy" and not node.losses for node in nodes)


def test_dev_gives_up_its_volumes_in_red(tree, capsys):
    plan = profile(tree, "dev").plans["disks"]
    assert {node.name: node.losses for node in cloud_plan.endangered(plan)} == {
        "lake1": ["volume data (20 GB)"],
        "warehouse1": ["volume data (20 GB)"],
    }
    cloud.show(plan)
    assert "LOSES DATA  lake1: volume data (20 GB)" in capsys.readouterr().out


@pytest.mark.parametrize("environment", ["staging", "prod"])
def test_protected_volumes_refuse_to_be_planned_away(tree, environment):
    runs = profile(tree, environment)
    assert runs.status["disks"] == "error" and "disks" not in runs.plans
    assert any(run == "disks" and "Instance cannot be destroyed" in error for run, error in runs.errors), runs.errors


def test_messages_say_what_is_allowed(tree):
    misspelt = """
run "misspelt" {
  command = plan
  variables {
    nodes = { lake = { count = 1, flavor = "m1.small", roles = ["minoi"] } }
  }
}
"""
    runs = Runs(tree / "environments/dev", MOCKS + REQUIRED + misspelt)
    [message] = [error for _, error in runs.errors if "minoi" in error]
    assert "lake has [minoi]" in message and "airflow, alertmanager, artifacts" in message


def test_more_nodes_than_addresses_are_refused(tree):
    crowded = """
run "crowded" {
  command = plan
  variables {
    subnet_cidr = "10.20.0.0/29"
  }
}
"""
    runs = Runs(tree / "environments/dev", MOCKS + REQUIRED + crowded)
    [(_, message)] = runs.errors
    assert "subnet_cidr 10.20.0.0/29" in message
