"""Every alert that can be caused on a shared platform is caused, seen in Alertmanager, and goes when its cause does."""

import time

import pytest

from tests.causes import SLOW, alerts_of, caused
from tests.observed import seen, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def drill(platform, alertmanager, published):
    """Everything at once; the way to take it back."""
    until(lambda: not seen(alertmanager) & set(alerts_of(SLOW)), 240)
    with caused(platform, *SLOW) as undo:
        yield undo


@pytest.fixture(scope="module")
def since() -> float:
    return time.monotonic()


@pytest.fixture(scope="module")
def told() -> set[str]:
    """Alerts that Alertmanager has told of so far: some have gone when their turn comes."""
    return set()


@pytest.mark.usefixtures("drill")
@pytest.mark.parametrize("alert", alerts_of(SLOW))
def test_an_alert_fires(alertmanager, alert, since, told):
    def fired() -> bool:
        told.update(seen(alertmanager))
        return alert in told

    until(fired, max(420 - (time.monotonic() - since), 5))
    print(f"{alert} fires {time.monotonic() - since:.0f} s after all causes at the latest")


@pytest.mark.usefixtures("drill")
def test_a_host_that_is_down_is_one_alert(alertmanager):
    told = [
        each["labels"]["alertname"]
        for each in alertmanager.get("/api/v2/alerts", inhibited="false")
        if each["labels"].get("host") == "sources1"
        and each["labels"]["alertname"] in ("TargetDown", "PortDown", "HostDown")
    ]
    assert told == ["HostDown"]


def test_alerts_resolve(drill, alertmanager):
    drill()
    resolved = until(lambda: not seen(alertmanager) & set(alerts_of(SLOW)), 900)
    print(f"all resolved after {resolved:.0f} s")
