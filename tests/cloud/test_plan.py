"""`make plan` as an operator runs it: the real provider and SDK, credentials from clouds.yaml, against a stub of a cloud."""

import shutil

import cloud
import pytest
import yaml

from tests.cloud import stub
from tests.cloud.terraform import provider
from tests.cloud.test_mocks import REQUIRED


@pytest.fixture
def operator(tree, tmp_path, monkeypatch):
    """An operator's working copy with everything filled in for dev. Gives its directory and the stub's unanswered requests."""
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
    with stub.openstack() as (url, unanswered):
        auth = {
            "auth_url": f"{url}/identity/v3",
            "application_credential_id": "id",
            "application_credential_secret": "secret",
        }
        clouds = {"dev": {"auth_type": "v3applicationcredential", "auth": auth, "region_name": "one"}}
        (tmp_path / "clouds.yaml").write_text(yaml.safe_dump({"clouds": clouds}))
        yield environments / "dev", unanswered


def test_plan_of_an_empty_project(operator, capsys):
    directory, unanswered = operator
    status = cloud.main(["plan", "dev"])
    said = capsys.readouterr()
    assert unanswered == []
    assert "6 instance               compute1, ingest1, lake1, observe1, sources1, warehouse1" in said.out, said.err
    assert "to create" in said.out and "LOSES DATA" not in said.out
    # The stub's project has OpenStack's default quotas.
    assert status == 1
    assert "security groups: 16 more are needed, the project may have 9 more." in said.err
    assert "instances" not in said.err


def test_names_are_checked_before_anything_is_planned(operator, capsys):
    directory, unanswered = operator
    values = directory / "terraform.tfvars"
    values.write_text(values.read_text().replace("m1.large", "m9.huge").replace("debian-13-genericcloud", "debian-14"))
    assert cloud.main(["plan", "dev"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "flavor 'm9.huge' (compute) is not there; flavors: m1.large, m1.medium, m1.small, m1.xlarge." in said.err
    assert "image 'debian-14'" in said.err and "images: debian-13-genericcloud." in said.err
