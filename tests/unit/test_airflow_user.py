"""The module that keeps Airflow's users, against a security manager in memory."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

PATH = Path(__file__).resolve().parents[2] / "ansible/plugins/modules/airflow_user.py"
SPEC = importlib.util.spec_from_file_location("airflow_user", PATH)
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)

WANTED = {
    "username": "admin",
    "password": "first",
    "email": "admin@example.org",
    "first_name": "ETL",
    "last_name": "Administrator",
    "role": "Admin",
}


class Security:
    """As much of FAB's security manager as the module uses; roles exist after sync_roles."""

    def __init__(self):
        self.users, self.roles, self.writes = {}, {}, 0

    def find_user(self, username):
        return self.users.get(username)

    def find_role(self, name):
        return self.roles.get(name)

    def sync_roles(self):
        self.roles = {name: SimpleNamespace(name=name) for name in ("Admin", "Viewer")}

    def add_user(self, username, first_name, last_name, email, role, password):
        self.writes += 1
        self.users[username] = SimpleNamespace(
            id=1, first_name=first_name, last_name=last_name, email=email, roles=[role], password=password
        )

    def update_user(self, user):
        self.writes += 1

    def check_password(self, username, password):
        return self.users[username].password == password

    def reset_password(self, userid, password):
        self.writes += 1
        self.users["admin"].password = password


@pytest.fixture
def security():
    made = Security()
    assert MODULE.ensure(made, WANTED, False) == ["user"]
    return made


def test_a_user_is_created_with_its_role_and_then_left_alone(security):
    assert security.users["admin"].roles[0].name == "Admin"
    before = security.writes
    assert MODULE.ensure(security, WANTED, False) == []
    assert security.writes == before


def test_a_rotated_password_is_set(security):
    assert MODULE.ensure(security, WANTED | {"password": "second"}, False) == ["password"]
    assert security.check_password("admin", "second")


def test_what_was_changed_by_hand_is_put_right(security):
    security.users["admin"].roles = [security.find_role("Viewer")]
    security.users["admin"].email = "other@example.org"
    assert MODULE.ensure(security, WANTED, False) == ["email", "role"]
    assert security.users["admin"].roles[0].name == "Admin"
    assert security.users["admin"].email == "admin@example.org"


def test_check_mode_writes_nothing(security):
    before = security.writes
    assert MODULE.ensure(security, WANTED | {"password": "second"}, True) == ["password"]
    assert MODULE.ensure(Security(), WANTED, True) == ["user"]
    assert security.writes == before
