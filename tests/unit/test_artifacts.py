"""The artifact manifests: every entry is pinned, has its checksums, and its key follows its content."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleError

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "ansible/artifacts"
PLUGIN = ROOT / "roles/artifacts/lookup_plugins/artifacts_catalogue.py"
CATALOGUE = yaml.safe_load((MANIFESTS / "catalogue.yml").read_text())
UPSTREAM = yaml.safe_load((MANIFESTS / "upstream.yml").read_text())["upstream"]
FILTER = ROOT / "roles/artifacts/filter_plugins/artifacts_downgrades.py"
PYTHON_LOCKS = sorted(MANIFESTS.glob("python/*.txt"))
POMS = sorted(path for path in MANIFESTS.glob("java/**/pom.xml") if "target" not in path.parts)


def plugin(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lookup():
    module = plugin(PLUGIN)
    return lambda root, groups: {e["name"]: e for e in module.LookupModule().run([str(root)], {"groups": groups})}


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(MANIFESTS, tmp_path / "artifacts", ignore=shutil.ignore_patterns("target")))


def test_every_group_of_the_catalogue_is_named_after_a_role():
    groups = {group for entry in CATALOGUE["artifacts"].values() for group in entry["groups"]}
    missing = {group for group in groups if not (ROOT / "roles" / group).is_dir()}
    assert not missing, f"no role makes hosts of {sorted(missing)}"


def test_entries_are_complete(lookup):
    for name, entry in lookup(MANIFESTS, {}).items():
        assert re.fullmatch(r"[0-9a-f]{12}", entry["key"])
        assert entry["file"] == f"{name}-{entry['version']}-{entry['key']}.tar.zst"
        assert all((MANIFESTS / file).is_file() for file in entry["files"])


def test_an_empty_group_needs_nothing(lookup):
    needed = lookup(MANIFESTS, {"minio": ["lake1"], "airflow": [], "nifi": []})
    assert {name for name, entry in needed.items() if entry["needed"]} == {"minio", "tools"}


def test_the_key_follows_the_content_not_the_place(lookup, copy):
    before = lookup(copy, {})
    assert {n: e["key"] for n, e in before.items()} == {n: e["key"] for n, e in lookup(MANIFESTS, {}).items()}
    with (copy / "java/spark/pom.xml").open("a") as pom:
        pom.write("<!-- changed -->\n")
    after = lookup(copy, {})
    assert {name for name in after if after[name]["key"] != before[name]["key"]} == {"spark"}


def test_outputs_of_a_build_do_not_change_the_key(lookup, copy):
    before = lookup(copy, {})["nifi"]
    (copy / "java/nifi/lib/target").mkdir()
    (copy / "java/nifi/lib/target/nifi.nar").write_text("built")
    assert lookup(copy, {})["nifi"] == before


def test_a_missing_manifest_is_named(lookup, copy):
    shutil.rmtree(copy / "go/minio")
    with pytest.raises(AnsibleError, match="go/minio"):
        lookup(copy, {})


@pytest.mark.parametrize(
    ("name", "there", "wanted", "refused"),
    [
        ("nifi", "2.6.1", "2.6.0", False),  # of one format
        ("nifi", "2.6.0", "2.5.0", True),
        ("nifi", "2.6.0", "2.10.0", False),  # newer, not older
        ("nifi", "3.0.0", "2.6.0", True),
        ("airflow", "3.3.0", "3.2.9", True),
        ("airflow", "3.1.8", "3.1.7", True),  # patch releases have migrations of the metadata
        ("elasticsearch", "8.19.21", "8.19.20", True),  # it refuses to start on what any newer one has written
        ("elasticsearch", "8.19.21", "8.19.21", False),
        ("minio", "20251013212412-57701c0b3c08", "20250907161309-07c3a429bfed", True),
        ("spark", "4.1.2", "3.5.0", False),  # stores nothing
        ("tools", "1.2.0", "1.0.0", False),
    ],
)
def test_no_version_comes_that_could_not_read_the_data(lookup, name, there, wanted, refused):
    downgrades = plugin(FILTER).artifacts_downgrades
    entry = lookup(MANIFESTS, {})[name] | {"version": wanted}
    told = downgrades([entry], {name: {"version": there}})
    assert told == ([f"{name} {wanted} is older than {there}, which this environment runs"] if refused else [])
    assert downgrades([entry], {}) == []


@pytest.mark.parametrize("lock", PYTHON_LOCKS, ids=lambda path: path.stem)
def test_python_locks_pin_every_package_with_hashes(lock):
    requirements = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"(?m)^\s*#.*\n", "", lock.read_text()))
    loose = [r.split("\n")[0] for r in requirements if not re.match(r"\S+==\S+( ; .*)? \\\n\s+--hash=sha256:", r)]
    assert not loose, f"{lock.name}: without version or hash: {loose}"
    wanted = (line.split("#")[0].strip() for line in lock.with_suffix(".in").read_text().splitlines())
    names = {re.split(r"[\[=<>~ ]", line)[0].lower() for line in wanted if line}
    locked = {re.split(r"[\[=]", r)[0].lower() for r in requirements}
    assert names <= locked, f"{lock.with_suffix('.in').name} has packages that {lock.name} lacks: make lock"


def test_airflow_has_no_second_pyspark():
    assert not re.search(r"(?m)^pyspark==", (MANIFESTS / "python/airflow.txt").read_text())


def test_the_spark_jars_fit_the_spark_wheel():
    wheel = re.search(r"(?m)^pyspark==(\S+)", (MANIFESTS / "python/spark.txt").read_text())[1]
    assert f"<spark.version>{wheel}</spark.version>" in (MANIFESTS / "java/spark/pom.xml").read_text()


def test_poms_pin_every_version():
    for pom in POMS:
        text = pom.read_text()
        assert not re.search(r"<version>[^<]*(\[|LATEST|RELEASE|SNAPSHOT)", text), f"{pom}: a version that can change"


@pytest.mark.parametrize("lock", sorted(MANIFESTS.glob("java/*/checksums.sha256")), ids=lambda path: path.parent.name)
def test_maven_checksums_are_sorted_and_well_formed(lock):
    lines = lock.read_text().splitlines()
    assert lines, f"{lock} is empty"
    assert all(re.fullmatch(r"[0-9a-f]{64}  [\w./+-]+", line) for line in lines)
    paths = [line.split()[1] for line in lines]
    assert len(paths) == len(set(paths))


def test_every_maven_artifact_has_checksums():
    for parts in (entry["parts"] for entry in CATALOGUE["artifacts"].values()):
        for kind, manifest in parts.items():
            if kind in ("maven", "java"):
                assert (MANIFESTS / manifest / "checksums.sha256").exists(), f"{manifest}: -e artifacts_record=<name>"


def test_go_modules_have_sums():
    for module in MANIFESTS.glob("go/*/go.mod"):
        sums = module.with_name("go.sum").read_text()
        for path, version in re.findall(r"(?m)^\s+?(?:require )?(\S+) (v\S+)", module.read_text()):
            assert f"{path} {version}" in sums, f"{module.parent.name}: {path} {version} has no checksum"


def test_upstream_entries_name_files_not_places():
    assert not set(UPSTREAM) & set(CATALOGUE["artifacts"]), "a name has one origin"
    for name, entry in UPSTREAM.items():
        assert set(entry) - {"data"} == {"version", "file", "checksum"}, name
        assert entry["version"] in entry["file"]
        assert entry["checksum"].removeprefix(entry["file"]) in (".sha512", ".sha256")
        assert "/" not in json.dumps(entry)
