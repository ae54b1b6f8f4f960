"""A command gets its secrets, and nobody who lists processes or reads what Ansible shows does."""

import json
import sys

import pytest

SECRET = "made-up-secret-of-the-warehouse"
# Looks itself: what the module answers is without the secret in any case.
LOOK = """
import os, subprocess, sys
processes = subprocess.check_output(["ps", "-eo", "args"], text=True)
print(len(os.environ["PGPASSWORD"]), sys.stdin.read().strip(), processes.count("play.yml") > 0, processes.count(os.environ["PGPASSWORD"]))
"""


@pytest.fixture
def run(play, tmp_path):
    """Runs a task with the module, over a shell as on a host; returns what the task registered."""

    def task(argv: list[str], *arguments: str) -> dict:
        given = {"argv": argv, "stdin": "given", "secrets": {"PGPASSWORD": "{{ secret }}"}}
        kept = {"dest": f"{tmp_path}/answer.json", "content": "{{ answer | to_json }}"}
        tasks = [
            {"secret_command": given, "register": "answer", "failed_when": "answer.rc is not defined"},
            {"ansible.builtin.copy": kept, "check_mode": False},
        ]
        done = play(tasks, {"secret": SECRET}, *arguments)
        assert done.returncode == 0, done.stdout
        return json.loads((tmp_path / "answer.json").read_text())

    return task


def test_the_command_alone_gets_the_secret(run):
    answer = run([sys.executable, "-c", LOOK])
    assert answer["stdout"].split() == [str(len(SECRET)), "given", "True", "0"], answer


def test_a_failure_is_told_without_the_secret(run):
    answer = run([sys.executable, "-c", "import os; raise SystemExit('refused ' + os.environ['PGPASSWORD'])"])
    assert (answer["rc"], answer["msg"]) == (1, "non-zero return code")
    assert answer["stderr"].startswith("refused ") and SECRET not in json.dumps(answer)


def test_nothing_is_run_in_a_check(run, tmp_path):
    answer = run(["touch", str(tmp_path / "touched")], "--check")
    assert answer["skipped"] and not (tmp_path / "touched").exists()
