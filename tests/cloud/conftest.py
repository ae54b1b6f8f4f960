"""What all cloud tests share."""

import shutil
from pathlib import Path

import pytest

from tests.cloud.terraform import without_backend


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    """A copy of what Terraform reads, without the backend: the repository's own folders get no lock file and no state."""
    assert shutil.which("terraform"), "terraform (1.11 or later) is not installed: docs/installation-openstack.md"
    return without_backend(tmp_path_factory.mktemp("tree"))
