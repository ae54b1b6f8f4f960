"""The cloud's inventories: what Terraform renders, what the dynamic inventory finds, and how hosts are reached."""

import json
import shlex
import shutil
from pathlib import Path

import cloud_plan
import pytest
import yaml
from ansible.template import Templar
from environment import Environment

from tests.inventories import contents, dynamic, server, static

ROOT = Path(__file__).resolve().parents[2]
CLOUDS = ["dev", "staging", "prod"]

# The output `inventory` of a small environment with a bastion.
INVENTORY = {
    "all": {
        "hosts": {
            "bastion1": {"ansible_host": "203.0.113.5", "platform_address": "10.20.0.5"},
            "lake1": {
                "ansible_host": "10.20.0.6",
                "platform_address": "10.20.0.6",
                "storage_volumes": [
                    {"id": "11111111-2222-3333-4444-555555555555", "mount": "/var/lib/minio/drive1"},
                    {"id": "66666666-7777-8888-9999-000000000000", "mount": "/var/lib/minio/drive2"},
                ],
            },
            "work1": {"ansible_host": "10.20.0.7", "platform_address": "10.20.0.7"},
            "work2": {"ansible_host": "10.20.0.8", "platform_address": "10.20.0.8"},
        },
        "children": {
            "bastion": {"hosts": {"bastion1": None}},
            "minio": {"hosts": {"lake1": None}},
            "spark": {
                "children": {
                    "spark_master": {"hosts": {"work1": None}},
                    "spark_worker": {"hosts": {"work1": None, "work2": None}},
                }
            },
        },
    }
}


def instance(name: str, address: str, groups: str, public: str | None = None, **volumes: str) -> dict:
    return server(name, address, {"environment": "dev", "groups": groups} | volumes, public)


# The same environment as the cloud has it: what modules/nodes puts into the instances' metadata.
SERVERS = [
    instance("bastion1", "10.20.0.5", "bastion", public="203.0.113.5"),
    instance(
        "lake1",
        "10.20.0.6",
        "minio",
        volume_drive2="66666666-7777-8888-9999-000000000000:/var/lib/minio/drive2",
        volume_drive1="11111111-2222-3333-4444-555555555555:/var/lib/minio/drive1",
    ),
    instance("work1", "10.20.0.7", "spark,spark_master,spark_worker"),
    instance("work2", "10.20.0.8", "spark,spark_worker"),
]


def test_rendered_and_dynamic_inventory_agree(tmp_path, monkeypatch):
    path = tmp_path / "hosts.yml"
    path.write_text(cloud_plan.render("dev", INVENTORY))
    groups, hosts = contents(static(path))
    assert groups["spark"] == {"work1", "work2"}
    assert len(hosts["lake1"]["storage_volumes"]) == 2
    assert (groups, hosts) == contents(dynamic(monkeypatch, SERVERS, "dev"))


def test_rendering_is_what_was_put_in():
    text = cloud_plan.render("dev", INVENTORY)
    assert text.startswith("# Written by `make apply ENV=dev`")
    assert yaml.safe_load(text) == INVENTORY
    assert max(map(len, text.splitlines())) <= 160
    assert cloud_plan.groups_of(INVENTORY)["all"] == {"bastion1", "lake1", "work1", "work2"}


@pytest.mark.parametrize("environment", CLOUDS)
def test_hosts_are_reached_directly_or_through_the_bastion(environment, tmp_path, monkeypatch):
    monkeypatch.setenv("ETL_SSH_KEY", "~/keys/etl")
    monkeypatch.setenv("HOME", "/home/operator")
    shutil.copytree(ROOT / "inventories" / environment, tmp_path / environment)
    path = tmp_path / environment / "hosts.yml"
    path.write_text(cloud_plan.render(environment, INVENTORY))
    found = Environment(path)

    direct = found.ssh("bastion1")
    assert direct[:3] == ["ssh", "-i", "/home/operator/keys/etl"]
    assert direct[-1] == "etl@203.0.113.5"
    assert f"UserKnownHostsFile={tmp_path / environment}/known_hosts" in direct
    assert not [word for word in direct if "Proxy" in word]

    through = found.ssh("lake1")
    [proxy] = [word for word in through if word.startswith("ProxyCommand=")]
    words = shlex.split(proxy.removeprefix("ProxyCommand="))
    assert words[0] == "ssh" and words[-3:] == ["-W", "%h:%p", "etl@203.0.113.5"]
    assert f"UserKnownHostsFile={tmp_path / environment}/known_hosts" in words
    assert through[-1] == "etl@10.20.0.6"
    assert found.value("ansible_ssh_retries", "lake1") > 0


def test_the_examples_sources_are_known_by_the_key_first_seen(tmp_path):
    inventory = json.loads(json.dumps(INVENTORY))
    inventory["all"]["hosts"]["sources1"] = {"ansible_host": "10.20.0.9", "platform_address": "10.20.0.9"}
    shutil.copytree(ROOT / "inventories/dev", tmp_path / "dev")
    (tmp_path / "dev/hosts.yml").write_text(cloud_plan.render("dev", inventory))
    (tmp_path / "dev/known_hosts").write_text(
        "10.20.0.90 ssh-ed25519 WRONG\n10.20.0.9 ssh-rsa OTHER\n10.20.0.9 ssh-ed25519 RIGHT\n"
    )
    found = Environment(tmp_path / "dev/hosts.yml")
    variables = found._variables.get_vars(host=found._manager.get_host("lake1"))
    secrets = ("sources_sftp_key", "sources_extract_password", "sources_weather_token")
    templar = Templar(loader=found._loader, variables=variables | dict.fromkeys(secrets, "-"))
    assert templar.template(variables["platform_sources"])["landing"]["host_key"] == "ssh-ed25519 RIGHT"


@pytest.mark.parametrize("environment", CLOUDS)
def test_environments_differ_in_values_alone(environment):
    directory = ROOT / "terraform/environments" / environment
    for name in ("main.tf", "variables.tf", "outputs.tf", "backend.tf"):
        assert (directory / name).resolve() == ROOT / "terraform/environments" / name
    variables = yaml.safe_load((ROOT / f"inventories/{environment}/group_vars/all/common.yml").read_text())
    assert variables["platform_environment"] == environment
    assert yaml.safe_load((ROOT / f"inventories/{environment}/openstack.yml").read_text())["only_clouds"] == [
        environment
    ]
