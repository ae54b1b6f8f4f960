"""What both shippers leave for Prometheus: lines that wait, and lines that Elasticsearch refused, whatever becomes of their file."""

import gzip
import http.server
import json
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import jinja2
import pytest

ROLES = Path(__file__).resolve().parents[2] / "roles"
DIRECTORY = "/var/lib/prometheus/node-exporter"
SCRIPT = ROLES / "log_shipper/files/metrics.py"
STATS = """\
Tue Jan  6 00:00:00 2026: { "name": "ship", "origin": "core.queue", "size": 3, "enqueued": 4, "maxqsize": 5 }
Tue Jan  6 00:00:30 2026: { "name": "ship", "origin": "core.queue", "size": 7, "enqueued": 9, "maxqsize": 8 }
Tue Jan  6 00:00:30 2026: { "name": "main Q", "origin": "core.queue", "size": 2, "enqueued": 9, "maxqsize": 8 }
"""
REFUSED = (
    '{ "reply": { "items": [ { "create": { "status": 400, "error": { "type": "document_parsing_exception" } } } ] } }\n'
)
KNOWN = REFUSED.replace("document_parsing_exception", "version_conflict_engine_exception")


def render(name: str, role: str = "log_shipper", **variables) -> str:
    return jinja2.Template((ROLES / role / "templates" / name).read_text(), undefined=jinja2.StrictUndefined).render(
        ansible_managed="", **variables
    )


def measure(name: str, role: str, replaced: dict[str, str], **variables) -> None:
    """Starts the measurement as its unit does, with these words in place of the host's."""
    unit = render(f"{name}.service.j2", role, **variables)
    (arguments,) = re.findall(rf"^ExecStart=/usr/local/lib/{name} (.+)$", unit, re.MULTILINE)
    for known, other in replaced.items():
        assert arguments.count(known) == 1
        arguments = arguments.replace(known, other)
    done = subprocess.run([sys.executable, "-I", SCRIPT, *shlex.split(arguments)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def measured(tmp_path):
    """Runs the measurement; returns what it leaves of a metric, None without a file."""
    (tmp_path / "stats").write_text(STATS)
    target = tmp_path / "log_shipper.prom"

    def metric(name: str = "etl_log_rejected_total") -> int | None:
        measure(
            "etl-log-metrics",
            "log_shipper",
            {DIRECTORY: str(tmp_path)},
            __log_shipper_stats=tmp_path / "stats",
            __log_shipper_rejected=tmp_path / "rejected.json",
            __log_shipper_spool=tmp_path,
            __log_shipper_run=tmp_path,
        )
        found = re.search(rf"^{name} (\d+)$", target.read_text(), re.MULTILINE) if target.exists() else None
        return int(found[1]) if found else None

    return metric


def add(file: Path, text: str) -> None:
    with file.open("a") as opened:
        opened.write(text)


def rotate(file: Path) -> None:
    """What logrotate does before it sends its signal."""
    aside, older = file.with_name(f"{file.name}.1"), file.with_name(f"{file.name}.2.gz")
    if aside.exists():
        older.write_bytes(gzip.compress(aside.read_bytes()))
        aside.unlink()
    file.rename(aside)


def test_the_count_only_grows_whatever_becomes_of_the_file(measured, tmp_path):
    file, aside = tmp_path / "rejected.json", tmp_path / "rejected.json.1"
    assert (measured(), measured("etl_log_waiting_lines")) == (0, 7)
    add(file, REFUSED * 3 + KNOWN)
    assert [measured(), measured()] == [3, 3]
    add(file, REFUSED)
    rotate(file)
    add(aside, REFUSED)
    assert measured() == 5, "what was written just before the file was put aside, and after it until the signal"
    add(file, REFUSED)
    assert [measured(), measured()] == [6, 6]
    add(aside, REFUSED)
    add(file, REFUSED)
    rotate(file)
    assert measured() == 7, "of the one before the last only what had been seen"
    add(file, REFUSED * 2)
    assert measured() == 9
    file.write_text("")
    assert measured() == 9
    add(file, REFUSED)
    assert measured() == 10
    for path in (file, aside):
        path.unlink()
    assert [measured() for _ in range(4)] == [10] * 4
    add(file, REFUSED)
    assert measured() == 11
    assert len((tmp_path / "rejected").read_text().splitlines()) == 2, "of files that are gone nothing is kept"


def test_the_count_of_an_earlier_release_goes_on(measured, tmp_path):
    file, aside = tmp_path / "rejected.json", tmp_path / "rejected.json.1"
    add(file, REFUSED * 4)
    add(aside, REFUSED * 6)
    known = {"total": "40 17", file.stat().st_ino: "3 0", aside.stat().st_ino: "6 1", "gone": "30 2"}
    (tmp_path / "rejected").write_text("".join(f"{name} {numbers}\n" for name, numbers in known.items()))
    assert [measured(), measured()] == [41, 41]


@pytest.mark.parametrize("statistics", [None, "", STATS.replace('"ship"', '"other"')])
def test_an_rsyslog_that_starts_is_not_measured(measured, tmp_path, statistics):
    (tmp_path / "stats").unlink()
    if statistics is not None:
        (tmp_path / "stats").write_text(statistics)
    assert measured() is None


def test_refused_documents_are_put_aside_without_a_gap():
    text = render(
        "logrotate.conf.j2",
        __log_shipper_rejected="/var/log/etl-log-rejected.json",
        log_shipper_rejected_size="50M",
        log_shipper_rejected_files=12,
    )
    assert "copytruncate" not in text, "what comes between copying and emptying would be lost"
    assert {"nocreate", "delaycompress", "missingok", "rotate 12", "maxsize 50M"} <= {
        line.strip() for line in text.splitlines()
    }
    assert re.search(r"postrotate\s+/usr/lib/rsyslog/rsyslog-rotate\s+endscript", text)


@pytest.fixture
def logstash(tmp_path):
    """Runs Logstash's measurement against an API with this status and answer; returns the file that it left, None without one."""
    target = tmp_path / "log_shipper.prom"

    def left(status: int, document: dict | None) -> str | None:
        class Api(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                assert self.path == "/_node/stats/pipelines/main"
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(document).encode())

            def log_message(self, *arguments):
                pass

        with http.server.HTTPServer(("127.0.0.1", 0), Api) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            measure(
                "etl-logstash-metrics",
                "logstash",
                {DIRECTORY: str(tmp_path), ":9600": f":{server.server_port}"},
            )
            server.shutdown()
        return target.read_text() if target.exists() else None

    return left


def test_logstash_leaves_what_the_other_shipper_leaves(logstash, measured, tmp_path):
    outputs = [{"name": "elasticsearch", "documents": {"successes": 9, "non_retryable_failures": 4, "dlq_routed": 2}}]
    main = {"queue": {"type": "persisted", "events_count": 7}, "plugins": {"outputs": outputs}}
    add(tmp_path / "rejected.json", REFUSED * 2)
    measured()
    same = (tmp_path / "log_shipper.prom").read_text()
    (tmp_path / "log_shipper.prom").unlink()
    assert logstash(200, {"pipelines": {"main": main}}) == same
    del outputs[0]["documents"]
    assert "etl_log_rejected_total 0\n" in logstash(200, {"pipelines": {"main": main}}), "before its first line"


@pytest.mark.parametrize(("status", "document"), [(200, {"pipelines": {}}), (404, {}), (503, {})])
def test_a_logstash_that_starts_is_not_measured(logstash, status, document):
    assert logstash(status, document) is None


@pytest.mark.parametrize(("written", "status", "refused"), [(True, 0, True), (True, 3, False), (False, 0, False)])
def test_a_host_has_one_shipper(play, tmp_path, monkeypatch, written, status, refused):
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\nexit {status}\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    unit = tmp_path / "logstash.service"
    if written:
        unit.touch()
    other = {"log_shipper_other": {"file": str(unit), "units": ["logstash.service", "etl-logstash-metrics.timer"]}}
    done = play([{"ansible.builtin.include_role": {"name": "log_shipper", "tasks_from": "alone"}}], other)
    told = "systemctl disable --now logstash.service etl-logstash-metrics.timer" in " ".join(done.stdout.split())
    assert (done.returncode != 0, told) == (refused, refused), done.stdout
