"""What all cloud tests share."""

import shutil
from pathlib import Path

import pytest

from tests.inventories import ROOT


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    """A copy of what Terraform reads, without the backend: the repository's own folders get no lock file and no state."""
    assert shutil.which("terraform"), "terraform (1.11 or later) is not installed: docs/installation-openstack.md"
    copy = tmp_path_factory.mktemp("tree")
    shutil.copytree(
        ROOT / "terraform",
        copy / "terraform",
        symlinks=True,
        ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*", "backend.tf", "state.tfbackend", "*.auto.tfvars*"),
    )
    for exports in ROOT.glob("roles/*/meta/exports.yml"):
        target = copy / exports.relative_to(ROOT)
        target.parent.mkdir(parents=True)
        shutil.copy(exports, target)
    return copy / "terraform"
