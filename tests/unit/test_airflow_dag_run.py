"""Starting a pipeline's run and following it: what is started, and what a person is told on the way."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "ansible/plugins"


def plugin(kind: str):
    """The module or action plugin airflow_dag_run."""
    spec = importlib.util.spec_from_file_location(f"airflow_dag_run_{kind}", PLUGINS / kind / "airflow_dag_run.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


choose = plugin("modules").choose
BASE = "orders_1995-01-01_1995-02-01"


@pytest.mark.parametrize(
    ("states", "again", "chosen"),
    [
        ([], False, (BASE, True)),
        (["success"], False, (BASE, False)),
        (["success"], True, (f"{BASE}.2", True)),
        (["failed"], False, (f"{BASE}.2", True)),
        (["failed", "running"], True, (f"{BASE}.2", False)),
        (["success", "queued"], True, (f"{BASE}.2", False)),
    ],
)
def test_an_interval_is_run_once_and_a_live_run_is_followed(states, again, chosen):
    ids = [BASE, f"{BASE}.2"]
    runs = [{"dag_run_id": run_id, "state": state} for run_id, state in zip(ids, states, strict=False)]
    assert choose(runs, BASE, again) == chosen


def test_a_run_that_waits_says_for_which_one():
    said, task = [], {"task_id": "start", "state": "success", "seconds": 1.0, "try_number": 1}
    looks = iter(
        [
            {"state": "queued", "waits_for": ["other"], "tasks": []},
            {"state": "running", "waits_for": [], "tasks": [task]},
            {"state": "success", "waits_for": [], "tasks": [task]},
        ]
    )
    action = plugin("action").ActionModule
    follower = SimpleNamespace(_display=SimpleNamespace(display=said.append), _look=lambda *_: next(looks))
    first = {"run_id": BASE, "state": "queued", "waits_for": ["other"], "tasks": []}
    last = action._follow(follower, first, {"interval": 0}, {})
    assert last["state"] == "success"
    assert said[0] == "  it waits for run other: a pipeline has one run at a time"
    assert len(said) == 2 and "start" in said[1], "told once, and then the tasks"


@pytest.mark.parametrize(("silence", "state"), [(300, "success"), (-1, None)])
def test_a_run_is_followed_while_airflow_starts_again(silence, state, monkeypatch):
    said, refused = [], {"failed": True, "msg": "connection refused"}
    looks = iter([refused, refused, {"state": "success", "waits_for": [], "tasks": []}])
    module = plugin("action")
    monkeypatch.setattr(module, "SILENCE", silence)
    follower = SimpleNamespace(_display=SimpleNamespace(display=said.append), _look=lambda *_: next(looks))
    first = {"run_id": BASE, "state": "running", "waits_for": [], "tasks": []}
    last = module.ActionModule._follow(follower, first, {"interval": 0}, {})
    assert last.get("state") == state
    assert said == ["  Airflow does not answer, which does not end the run: connection refused"]
