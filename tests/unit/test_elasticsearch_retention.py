"""The retention of log lines: days that are too old go, and an Elasticsearch that does not answer is no success."""

import datetime
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "roles/elasticsearch/files/retention"
CURL = """#!/bin/sh
case "$*" in
*DELETE*) for last; do :; done; echo "${last##*/}" >> "$DELETED" ;;
*) [ -n "$INDICES" ] || exit 7; printf '%s\\n' $INDICES ;;
esac
"""


@pytest.fixture
def retain(tmp_path):
    """Runs the script over indices of so many days ago, None: nobody answers; returns (status, what it deleted)."""
    (tmp_path / "curl").write_text(CURL)
    (tmp_path / "curl").chmod(0o755)
    today = datetime.datetime.now(datetime.UTC).date()

    def index(days: int) -> str:
        return f"etl-logs-{today - datetime.timedelta(days):%Y.%m.%d}"

    def run(ages: list[int] | None) -> tuple[int, list[str]]:
        deleted = tmp_path / "deleted"
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "DELETED": str(deleted)}
        environment |= {"INDICES": " ".join(map(index, ages or []))}
        done = subprocess.run(["bash", SCRIPT, "https://host", "14", "config"], env=environment, capture_output=True)
        names = deleted.read_text().split() if deleted.exists() else []
        return done.returncode, [age for age in ages or [] if index(age) in names]

    return run


def test_days_that_are_too_old_go(retain):
    assert retain([0, 3, 40, 20, 13]) == (0, [40, 20])


def test_a_store_that_does_not_answer_is_a_failure(retain):
    assert retain(None) == (7, [])
