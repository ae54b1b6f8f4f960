import pytest

from tests.deployed import Deployed


@pytest.fixture(scope="session")
def platform() -> Deployed:
    return Deployed()
