"""Terraform as the tests run it: with the operator's provider, or with one built from source."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests.inventories import ROOT


def without_backend(copy: Path) -> Path:
    """Copy what Terraform reads of the repository into a directory, its backend aside; gives the folder `terraform` there."""
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


def terraform(directory: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Terraform with the provider of the machine's own mirror, or of what TF_CLI_CONFIG_FILE says."""
    return subprocess.run(
        ["terraform", f"-chdir={directory}", *arguments],
        env=os.environ | {"TF_CLI_CONFIG_FILE": provider(), "TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"},
        capture_output=True,
        text=True,
    )


@cache
def provider() -> str:
    """The CLI configuration that names where the provider is: the operator's, or one with a provider built on first use."""
    configured = os.environ.get("TF_CLI_CONFIG_FILE", "")
    if Path(configured).is_file():
        return configured
    built = subprocess.run([ROOT / "terraform/provider-mirror"], stdout=subprocess.PIPE, text=True, check=True)
    return built.stdout.strip()


def initialised(directory: Path) -> Path:
    if not (directory / ".terraform").exists():
        done = terraform(directory, "init", "-no-color", "-input=false")
        assert done.returncode == 0, done.stdout + done.stderr
    return directory
