"""minio_bucket, minio_policy and minio_user against a server of a few lines: changes, check mode, diff, second runs."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args
from minio.error import MinioAdminException

PLUGINS = Path(__file__).resolve().parents[2] / "ansible/plugins"
CONNECTION = {"endpoint": "https://lake1.example:9000", "root_user": "root", "root_password": "rootrootroot"}
DOCUMENT = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["s3:PutObject", "s3:GetObject"], "Resource": ["arn:aws:s3:::raw/*"]},
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::raw"},
    ],
}


def load(kind, name):
    """Import a plugin file under the name that Ansible gives it on the host."""
    spec = importlib.util.spec_from_file_location(name, PLUGINS / kind / f"{name.rpartition('.')[2]}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


load("module_utils", "ansible.module_utils.minio_client")


class S3Error(Exception):
    """An error as the S3 client raises it."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


def admin_error(code):
    """Return an error as the admin client raises it."""
    return MinioAdminException("404", json.dumps({"Code": code}))


class Server:
    """The part of a MinIO server that the modules speak to; counts the requests that change it."""

    def __init__(self):
        self.users, self.policies, self.buckets, self.writes = {}, {}, {}, 0

    def admin(self):
        return self

    def s3(self, access_key=None, secret_key=None):
        return Client(self, access_key, secret_key)

    def user_info(self, name):
        if name not in self.users:
            raise admin_error("XMinioAdminNoSuchUser")
        user = self.users[name]
        return json.dumps({"status": user["status"], "policyName": user["policy"]} if user["policy"] else user)

    def user_add(self, name, secret):
        self.writes += 1
        policy = self.users.get(name, {}).get("policy", "")
        self.users[name] = {"secret": secret, "status": "enabled", "policy": policy}

    def policy_set(self, policy, user):
        # As the real one: a disabled user cannot be given a policy.
        if self.users.get(user, {}).get("status") != "enabled":
            raise admin_error("XMinioAdminNoSuchUser")
        self.writes += 1
        self.users[user]["policy"] = policy

    def user_remove(self, name):
        self.writes += 1
        del self.users[name]

    def policy_info(self, name):
        if name not in self.policies:
            raise admin_error("XMinioAdminNoSuchPolicy")
        return json.dumps(self.policies[name])

    def policy_add(self, name, policy):
        self.writes += 1
        self.policies[name] = policy

    def policy_remove(self, name):
        self.writes += 1
        del self.policies[name]


class Client:
    """The S3 side of the server, with one user's key."""

    def __init__(self, server, access_key, secret_key):
        self.server, self.access_key, self.secret_key = server, access_key, secret_key

    def list_buckets(self):
        user = self.server.users.get(self.access_key)
        if user is None or user["status"] != "enabled":
            raise S3Error("InvalidAccessKeyId")
        raise S3Error("AccessDenied" if user["secret"] == self.secret_key else "SignatureDoesNotMatch")

    def bucket_exists(self, name):
        return name in self.server.buckets

    def make_bucket(self, name, location):
        self.server.writes += 1
        self.server.buckets[name] = {"versioning": None, "lifecycle": None}

    def get_bucket_versioning(self, name):
        return SimpleNamespace(status=self.server.buckets[name]["versioning"])

    def set_bucket_versioning(self, name, config):
        self.server.writes += 1
        self.server.buckets[name]["versioning"] = config.status

    def get_bucket_lifecycle(self, name):
        return self.server.buckets[name]["lifecycle"]

    def set_bucket_lifecycle(self, name, config):
        self.server.writes += 1
        self.server.buckets[name]["lifecycle"] = config

    def delete_bucket_lifecycle(self, name):
        self.server.writes += 1
        self.server.buckets[name]["lifecycle"] = None


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def run(server, monkeypatch):
    """Run a module against the server; returns what it exits with."""

    def leave(self, **result):
        raise SystemExit(result)

    def fail(self, msg, **result):
        raise SystemExit({"failed": True, "msg": msg})

    monkeypatch.setattr(basic.AnsibleModule, "exit_json", leave)
    monkeypatch.setattr(basic.AnsibleModule, "fail_json", fail)

    def run(plugin, check=False, **params):
        module = load("modules", plugin)
        monkeypatch.setattr(module, "Connection", lambda _: server)
        with (
            patch_module_args({**CONNECTION, **params, "_ansible_check_mode": check}),
            pytest.raises(SystemExit) as end,
        ):
            module.main()
        return end.value.code

    return run


def test_user_is_created_once(run, server):
    wanted = {"name": "etl-nifi", "secret": "first-secret", "policies": ["etl-nifi"]}
    assert run("minio_user", **wanted)["changed"]
    assert server.users == {"etl-nifi": {"secret": "first-secret", "status": "enabled", "policy": "etl-nifi"}}
    server.writes = 0
    assert not run("minio_user", **wanted)["changed"]
    assert server.writes == 0


def test_user_gets_a_changed_secret_and_the_result_does_not_tell_it(run, server):
    run("minio_user", name="etl-nifi", secret="first-secret", policies=["etl-nifi"])
    result = run("minio_user", name="etl-nifi", secret="second-secret", policies=["etl-nifi"])
    assert result["changed"]
    assert result["diff"]["before"]["secret"] == "differs"
    assert server.users["etl-nifi"]["secret"] == "second-secret"
    assert "second-secret" not in json.dumps(result)


def test_disabled_user_is_enabled_with_its_policies(run, server):
    server.users["etl-nifi"] = {"secret": "first-secret", "status": "disabled", "policy": ""}
    assert run("minio_user", name="etl-nifi", secret="first-secret", policies=["etl-nifi"])["changed"]
    assert server.users["etl-nifi"] == {"secret": "first-secret", "status": "enabled", "policy": "etl-nifi"}


def test_other_policies_are_detached_whatever_their_order(run, server):
    server.users["etl-nifi"] = {"secret": "first-secret", "status": "enabled", "policy": "b,a,consoleAdmin"}
    assert run("minio_user", name="etl-nifi", secret="first-secret", policies=["b", "a"])["changed"]
    assert server.users["etl-nifi"]["policy"] == "a,b"
    assert not run("minio_user", name="etl-nifi", secret="first-secret", policies=["b", "a"])["changed"]


def test_user_is_removed(run, server):
    server.users["etl-nifi"] = {"secret": "first-secret", "status": "enabled", "policy": ""}
    assert run("minio_user", name="etl-nifi", state="absent")["changed"]
    assert server.users == {}
    assert not run("minio_user", name="etl-nifi", state="absent")["changed"]


def test_policy_is_compared_by_meaning(run, server):
    assert run("minio_policy", name="etl-nifi", policy=DOCUMENT)["changed"]
    # The server answers in an order of its own, with every single value as a list.
    server.policies["etl-nifi"] = {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::raw"]},
            {"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": ["arn:aws:s3:::raw/*"]},
        ],
    }
    assert not run("minio_policy", name="etl-nifi", policy=DOCUMENT)["changed"]


def test_widened_policy_is_found_and_taken_back(run, server):
    run("minio_policy", name="etl-nifi", policy=DOCUMENT)
    everything = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*"]}
    server.policies["etl-nifi"] = {**DOCUMENT, "Statement": [*DOCUMENT["Statement"], everything]}
    result = run("minio_policy", name="etl-nifi", policy=DOCUMENT)
    assert result["changed"]
    assert "s3:*" in json.dumps(result["diff"]["before"])
    assert "s3:*" not in json.dumps(server.policies)


def test_bucket_is_made_with_versions_and_retention(run, server):
    wanted = {"name": "raw", "noncurrent_days": 30}
    assert run("minio_bucket", **wanted)["changed"]
    bucket = server.buckets["raw"]
    (rule,) = bucket["lifecycle"].rules
    assert bucket["versioning"] == "Enabled"
    assert rule.noncurrent_version_expiration.noncurrent_days == 30
    assert rule.expiration.days is None
    assert not run("minio_bucket", **wanted)["changed"]


def test_drift_of_a_bucket_is_put_right(run, server):
    run("minio_bucket", name="raw", noncurrent_days=30)
    server.buckets["raw"] = {"versioning": "Suspended", "lifecycle": None}
    result = run("minio_bucket", name="raw", noncurrent_days=30)
    assert result["diff"]["before"] == {"versioned": False, "noncurrent_days": 0, "expire_days": 0, "other_rules": []}
    assert server.buckets["raw"]["versioning"] == "Enabled"
    assert server.buckets["raw"]["lifecycle"] is not None


def test_bucket_without_versions_or_retention_needs_one_request(run, server):
    run("minio_bucket", name="scratch", versioned=False)
    assert server.writes == 1
    assert not run("minio_bucket", name="scratch", versioned=False)["changed"]


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        ("minio_user", {"name": "etl-nifi", "secret": "first-secret", "policies": ["etl-nifi"]}),
        ("minio_policy", {"name": "etl-nifi", "policy": DOCUMENT}),
        ("minio_bucket", {"name": "raw", "noncurrent_days": 30, "expire_days": 90}),
    ],
)
def test_check_mode_tells_what_the_run_then_does(run, server, module, wanted):
    checked = run(module, check=True, **wanted)
    assert checked["changed"]
    assert server.writes == 0
    assert run(module, **wanted)["diff"] == checked["diff"]
    assert not run(module, check=True, **wanted)["changed"]


def test_an_unexpected_error_names_the_user_and_the_server(run, server, monkeypatch):
    def refuse(name):
        raise admin_error("AccessDenied")

    monkeypatch.setattr(server, "user_info", refuse)
    result = run("minio_user", name="etl-nifi", secret="first-secret")
    assert result["failed"]
    assert "etl-nifi" in result["msg"]
    assert "lake1.example:9000" in result["msg"]
    assert "AccessDenied" in result["msg"]
