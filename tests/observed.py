"""What an operator sees, as tests ask for it: metrics, alerts, log lines."""

import shlex
import time
from collections import Counter
from collections.abc import Callable

from tests.deployed import Deployed, Service


def until(what: Callable[[], object], seconds: float, every: float = 1) -> float:
    """Wait until `what` returns something true; return the seconds it took, or fail with its last value."""
    start = time.monotonic()
    while not (found := what()):
        assert time.monotonic() - start < seconds, f"not so after {seconds} s: {found}"
        time.sleep(every)
    return time.monotonic() - start


def firing(alertmanager: Service) -> list[tuple[str, str]]:
    """Name and host of every alert that Alertmanager holds as firing, silenced and inhibited ones too."""
    labels = [alert["labels"] for alert in alertmanager.get("/api/v2/alerts")]
    return sorted((each["alertname"], each.get("host", "")) for each in labels)


def seen(alertmanager: Service) -> set[str]:
    """The names of what fires."""
    return {name for name, _ in firing(alertmanager)}


def value(prometheus: Service, query: str) -> list[float]:
    """The values that a PromQL query returns."""
    return [float(each["value"][1]) for each in prometheus.get("/api/v1/query", query=query)["data"]["result"]]


def settled(prometheus: Service, alertmanager: Service) -> bool:
    """Whether nothing but Watchdog fires and nothing is about to."""
    alerts = prometheus.get("/api/v1/alerts")["data"]["alerts"]
    return [each["labels"]["alertname"] for each in alerts] == ["Watchdog"] and firing(alertmanager) == [
        ("Watchdog", "")
    ]


def lines(elasticsearch: Service, field: str, content: str) -> list[dict]:
    """The log lines whose field has exactly this content, oldest first; at most 10,000."""
    query = f'{field}:"{content}"'
    hits = elasticsearch.get("/etl-logs-*/_search", q=query, size=10000, sort="@timestamp:asc")["hits"]["hits"]
    return [hit["_source"] for hit in hits]


def healthy(elasticsearch: Service) -> bool:
    """Whether Elasticsearch answers and every index can be searched."""
    try:
        return elasticsearch.get("/_cluster/health")["status"] in ("yellow", "green")
    except OSError:  # what requests raises is one
        return False


def say(platform: Deployed, host: str, unit: str, first: int, count: int, per_second: int = 0) -> None:
    """Let a service write the lines `line <first>` to `line <first + count - 1>` into the journal.

    per_second: write at that rate and return at once; 0: as fast as it can, and return when all are written.
    """
    pause = f"[ $((i % {per_second})) != 0 ] || sleep 1; " if per_second else ""
    script = f"i={first}; while [ $i -lt {first + count} ]; do echo line $i; i=$((i+1)); {pause}done"
    wait = "" if per_second else "--wait"
    platform.run(host, f"systemd-run {wait} --quiet --collect --unit {unit} sh -c {shlex.quote(script)}")


def difference(elasticsearch: Service, unit: str, count: int) -> tuple[list[int], list[int]]:
    """The numbers that are missing and those that are doubled among `count` lines that `say` wrote."""
    found = Counter(int(line["message"].split()[1]) for line in lines(elasticsearch, "unit", f"{unit}.service"))
    return sorted(set(range(count)) - set(found)), sorted(number for number, times in found.items() if times > 1)
