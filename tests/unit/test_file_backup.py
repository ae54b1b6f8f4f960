"""What stores files of services: with a real object store, tar, openssl, curl and SQLite."""

import importlib.util
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests import stores

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "roles/file_backup/files/file_backup.py"
PASSPHRASE = 'a "passphrase" of the test'
USER = ("etl-file-backup", "a-secret-of-the-test")
KEY = "files/host1/{}.tar.zst.enc"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("file_backup", SCRIPT)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def server(policies):
    """The URL of a store with the user of the role, who may do what the role minio lets it."""
    with stores.minio() as url:
        stores.add_user(url, *USER, policies["etl-file-backup"])
        bucket = stores.client(url)
        bucket.create_bucket(Bucket="backups")
        bucket.put_bucket_versioning(Bucket="backups", VersioningConfiguration={"Status": "Enabled"})
        yield url


@pytest.fixture
def host(server, tmp_path):
    """A host with two services, nothing stored."""
    bucket = stores.client(server)
    for version in bucket.list_object_versions(Bucket="backups").get("Versions", []):
        bucket.delete_object(Bucket="backups", Key=version["Key"], VersionId=version["VersionId"])
    for service in ("one", "two"):
        (tmp_path / service).mkdir()
        (tmp_path / service / "file").write_text(f"of {service}")
    return Host(tmp_path, server)


class Host:
    """What the role makes of a host, in a directory."""

    def __init__(self, place: Path, url: str):
        self.place, self.bucket = place, stores.client(url)
        self.config = {
            "url": f"{url}/backups/files/host1",
            "region": "us-east-1",
            "access_key": USER[0],
            "secret_key": USER[1],
            "passphrase": PASSPHRASE,
            "ca_file": "/etc/ssl/certs/ca-certificates.crt",
            "record": str(place / "stored.json"),
            "metrics": str(place / "file_backup.prom"),
            "services": {service: [str(place / service)] for service in ("one", "two")},
        }

    def store(self, *arguments: str) -> subprocess.CompletedProcess:
        path = self.place / "config.json"
        path.write_text(json.dumps(self.config))
        return subprocess.run([SCRIPT, "--config", path, *arguments], capture_output=True, text=True)

    def objects(self) -> set[str]:
        listed = self.bucket.list_objects_v2(Bucket="backups").get("Contents", [])
        return {each["Key"] for each in listed}

    def unpack(self, name: str) -> Path:
        """Fetch, decrypt and unpack an object by the commands of playbooks/restore_files.yml."""
        archive, target = self.place / "archive.tar.zst", self.place / f"unpacked-{name}"
        self.bucket.download_file("backups", KEY.format(name), f"{archive}.enc")
        decrypt = ["openssl", "enc", "-d", "-aes-256-cbc", "-pbkdf2", "-pass", "stdin"]
        subprocess.run([*decrypt, "-in", f"{archive}.enc", "-out", archive], input=PASSPHRASE, text=True, check=True)
        target.mkdir()
        owners = ["--same-owner", "--same-permissions"]
        subprocess.run(["tar", "--zstd", "-C", target, *owners, "-xf", archive], check=True)
        return target / str(self.place).lstrip("/")

    def metrics(self) -> dict[str, float]:
        lines = (self.place / "file_backup.prom").read_text().splitlines()
        return {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}

    def stored_at(self, service: str) -> float:
        return self.metrics()[f'etl_file_backup_last_success_timestamp_seconds{{service="{service}"}}']


@pytest.fixture
def database(host):
    """A database of the first service whose rows are in its log alone, and that is open."""
    path = host.place / "one/state.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.execute("create table t (i integer)")
        connection.execute("pragma wal_checkpoint(truncate)")
        connection.execute("insert into t values (1), (2)")
        path.chmod(0o640)
        yield path


def rows(path: Path) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("select i from t").fetchall()


def test_what_is_stored_comes_back(host, database):
    began = int(time.time())
    done = host.store()
    assert done.returncode == 0, done.stderr
    assert host.objects() == {KEY.format("one"), KEY.format("two")}
    assert host.stored_at("one") >= began and host.stored_at("two") >= began
    size = host.bucket.head_object(Bucket="backups", Key=KEY.format("two"))["ContentLength"]
    assert host.metrics()['etl_file_backup_bytes{service="two"}'] == size
    assert (host.place / "file_backup.prom").stat().st_mode & 0o777 == 0o644
    unpacked = host.unpack("one")
    assert (unpacked / "one/file").read_text() == "of one"
    assert rows(unpacked / "one/state.db") == [(1,), (2,)]
    assert (unpacked / "one/state.db").stat().st_mode == database.stat().st_mode
    assert {path.name for path in (unpacked / "one").iterdir()} == {"file", "state.db"}


def test_one_service_that_fails_keeps_no_other_from_being_stored(host):
    assert host.store().returncode == 0
    record = json.loads((host.place / "stored.json").read_text())
    record["one"][0] = record["two"][0] = 1000
    (host.place / "stored.json").write_text(json.dumps(record))
    shutil.rmtree(host.place / "one")
    done = host.store()
    assert done.returncode == 1
    assert done.stderr.startswith("one: tar: ") and "two" not in done.stderr
    assert host.stored_at("one") == 1000 and host.stored_at("two") > 1000


def test_what_was_never_stored_is_known_as_such(host):
    host.config["services"]["new"] = [str(host.place / "nowhere")]
    assert host.store().returncode == 1
    assert host.stored_at("new") == 0 < host.stored_at("one")
    del host.config["services"]["new"]
    assert host.store().returncode == 0
    assert not [name for name in host.metrics() if "new" in name]


def test_a_host_made_anew_replaces_nothing_by_itself(host):
    assert host.store().returncode == 0
    (host.place / "one/file").write_text("of a new host")
    (host.place / "stored.json").unlink()
    refused = host.store()
    assert refused.returncode == 1
    assert "playbooks/restore_files.yml -e service=one" in refused.stderr and "service=two" in refused.stderr
    assert host.stored_at("one") == 0
    assert host.store("--service", "one", "--replace").returncode == 0
    assert host.stored_at("one") > 0 == host.stored_at("two")
    assert (host.unpack("one") / "one/file").read_text() == "of a new host"
    versions = host.bucket.list_object_versions(Bucket="backups", Prefix=KEY.format("one"))["Versions"]
    assert len(versions) == 2, "what was replaced stays"


def test_before_a_restore_what_is_there_is_stored_under_a_name_of_its_own(host):
    arguments = ("--name", "one.before-restore", str(host.place / "one"))
    assert [host.store(*arguments).returncode for _ in range(2)] == [0, 0]
    assert host.objects() == {KEY.format("one.before-restore")}
    assert not (host.place / "stored.json").exists()
    assert (host.unpack("one.before-restore") / "one/file").read_text() == "of one"


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [("secret_key", "another", "SignatureDoesNotMatch"), ("url", "{}/backups/pgbackrest", "AccessDenied")],
)
def test_a_refusal_is_told_without_a_secret(host, server, setting, value, why):
    host.config[setting] = value.format(server)
    done = host.store("--service", "one")
    assert done.returncode == 1 and why in done.stderr
    assert host.config["secret_key"] not in done.stderr and PASSPHRASE not in done.stderr
    assert host.objects() == set()


@pytest.mark.parametrize("arguments", [("--name", "x"), ("/etc",), ("--service", "three")])
def test_arguments_that_mean_nothing(host, arguments):
    assert host.store(*arguments).returncode == 2


def test_a_copy_has_what_is_only_in_the_log(script, database, tmp_path):
    assert Path(f"{database}-wal").stat().st_size > 0
    alone = tmp_path / "alone.db"
    alone.write_bytes(database.read_bytes())
    assert rows(alone) == [], "the file by itself, as tar packs it, lacks them"
    copy = tmp_path / "copies/state.db"
    script.copy(database, copy)
    assert rows(copy) == [(1,), (2,)]
    assert copy.stat().st_mode == database.stat().st_mode and copy.stat().st_uid == database.stat().st_uid


def test_only_databases_are_copied(script, database, host):
    (database.parent / "thumbs.db").write_text("no database")
    (database.parent / "empty.db").touch()
    os.symlink(database, database.parent / "link.db")
    assert script.databases([str(database.parent), str(host.place / "nowhere")]) == [database]
    assert script.databases([str(database)]) == [database]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs users to be")
@pytest.mark.parametrize("opened", [True, False])
def test_with_the_capabilities_of_its_unit_it_reads_what_is_a_services_own(tmp_path_factory, tmp_path, opened):
    """And writes nothing there, whether the service runs or was stopped."""
    place = tmp_path_factory.mktemp("service")
    path = place / "state.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table t (i integer)")
    connection.execute("insert into t values (1), (2)")
    if not opened:
        connection.close()
    for each in (place, *place.iterdir()):
        os.chown(each, 1234, 1234)
        each.chmod(0o700 if each.is_dir() else 0o600)
    files = sorted(each.name for each in place.iterdir())
    assert (len(files) == 3) == opened
    code = (
        "import importlib.util, sys; from pathlib import Path; "
        f"spec = importlib.util.spec_from_file_location('file_backup', {str(SCRIPT)!r}); "
        "script = importlib.util.module_from_spec(spec); spec.loader.exec_module(script); "
        f"[script.copy(each, Path({str(tmp_path / 'copy.db')!r})) for each in script.databases([{str(place)!r}])]"
    )
    bounded = ["setpriv", "--bounding-set", "-all,+dac_read_search,+chown", "--inh-caps", "-all"]
    done = subprocess.run([*bounded, sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "copy.db") == [(1,), (2,)]
    assert (tmp_path / "copy.db").stat().st_uid == 1234
    assert sorted(each.name for each in place.iterdir()) == files
    connection.close()


def test_the_user_reads_and_removes_nothing(host, server):
    assert host.store().returncode == 0
    own = stores.client(server, *USER)
    for attempt in (own.get_object, own.delete_object):
        with pytest.raises(ClientError, match="AccessDenied"):
            attempt(Bucket="backups", Key=KEY.format("one"))


def test_preflight_tells_of_a_host_that_is_forgotten(play):
    def groups(**members: str) -> list[dict]:
        return [
            {"ansible.builtin.group_by": {"key": group}, "when": f"inventory_hostname in {names.split()!r}"}
            for group, names in members.items()
        ]

    check = {"ansible.builtin.include_role": {"name": "file_backup", "tasks_from": "preflight"}}
    check["when"] = "inventory_hostname in groups['file_backup']"
    fine = play([*groups(file_backup="a b", nifi="a", alertmanager="b"), check], {}, hosts="a,b,c")
    assert fine.returncode == 0, fine.stdout
    forgotten = play([*groups(file_backup="a", nifi="a", alertmanager="b"), check], {}, hosts="a,b,c")
    assert forgotten.returncode != 0 and "b: not in group file_backup" in forgotten.stdout
    idle = play([*groups(file_backup="a b", nifi="a"), check], {}, hosts="a,b,c")
    assert idle.returncode != 0 and "b is in group file_backup and in none of airflow, " in idle.stdout
