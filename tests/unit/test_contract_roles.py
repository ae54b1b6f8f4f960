"""The contract that every role keeps: names, declared variables, exports, task files."""

import re
import subprocess
from functools import cache
from itertools import chain
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parents[1].name for path in (ROOT / "roles").glob("*/meta/main.yml"))
VERBS = {"preflight", "install", "configure", "service", "verify"}
EXPORTS = {"ports", "clients", "metrics", "units", "backups", "secrets"}
OF_SOME_PORTS = {"spans", "served_by"}
SECRET_KINDS = {"password", "hex", "fernet", "ssh_key"}


@cache
def load(path: Path) -> dict:
    """The mapping in a YAML file, {} when the file is missing or empty."""
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def defaults(role: str) -> dict:
    return load(ROOT / f"roles/{role}/defaults/main.yml")


def specs(role: str) -> dict:
    return load(ROOT / f"roles/{role}/meta/argument_specs.yml").get("argument_specs", {})


def options(role: str, entry: str = "main") -> dict:
    return specs(role).get(entry, {}).get("options") or {}


def exports(role: str) -> dict:
    return load(ROOT / f"roles/{role}/meta/exports.yml")


def secret_names(role: str) -> set[str]:
    """The variables that a role's declared secrets become."""
    declared = (exports(role).get("secrets") or {}).items()
    return {name for name, _ in declared} | {f"{name}_public" for name, s in declared if s["kind"] == "ssh_key"}


def tracked(*patterns: str) -> list[Path]:
    """The repository's text files that match the git patterns, also those not added yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--", *patterns], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def test_there_are_roles():
    assert len(ROLES) >= 10, ROLES


@pytest.mark.parametrize("role", ROLES)
def test_declared_variables_are_the_defaults_and_the_required_ones(role):
    declared = options(role)
    required = {name for name, option in declared.items() if option.get("required")}
    optional = set(declared) - required
    assert specs(role), f"roles/{role}/meta/argument_specs.yml declares no entry point"
    both = required & set(defaults(role))
    assert not both, f"required in argument_specs, yet with a default: {sorted(both)}"
    undeclared = set(defaults(role)) - optional
    assert not undeclared, f"in defaults/main.yml, not in argument_specs: {sorted(undeclared)}"
    # A platform_* variable is another role's: this one may read it without giving it a value.
    without = {name for name in optional - set(defaults(role)) if not name.startswith("platform_")}
    assert not without, f"in argument_specs, neither required nor in defaults/main.yml: {sorted(without)}"


@pytest.mark.parametrize("role", ROLES)
def test_declared_options_are_described_and_typed(role):
    for entry, spec in specs(role).items():
        assert spec.get("short_description"), f"{role}: {entry} has no short_description"
        for name, option in (spec.get("options") or {}).items():
            assert option.get("type") and option.get("description"), f"{role}: {name} needs a type and a description"


@pytest.mark.parametrize("role", ROLES)
def test_names_carry_the_prefix_of_their_role(role):
    foreign = [name for name in defaults(role) if not name.startswith(f"{role}_")]
    assert not foreign, f"defaults of {role} without its prefix: {foreign}"
    internal = [n for n in load(ROOT / f"roles/{role}/vars/main.yml") if not n.startswith(f"__{role}_")]
    assert not internal, f"vars/main.yml is for internal values, __{role}_x: {internal}"


@pytest.mark.parametrize("role", ROLES)
def test_exports_are_literal_and_complete(role):
    path = ROOT / f"roles/{role}/meta/exports.yml"
    assert set(exports(role)) - OF_SOME_PORTS == EXPORTS
    assert "{{" not in path.read_text(), (
        "exports are literals: Terraform and the observing roles read the file as it is"
    )
    assert set(exports(role)["clients"]) <= set(exports(role)["ports"])
    assert set(exports(role)["metrics"]) <= set(exports(role)["ports"])
    for section in OF_SOME_PORTS:
        assert set(exports(role).get(section, {})) <= set(exports(role)["ports"])


@pytest.mark.parametrize("role", ROLES)
def test_clients_of_ports_are_roles(role):
    """A misspelt client would be nobody, and its port closed to whom it was meant for."""
    named = {client for clients in exports(role)["clients"].values() for client in clients}
    named |= set(exports(role).get("served_by", {}).values())
    unknown = named - set(ROLES) - {"all", "operators"}
    assert not unknown, f"roles/{role}/meta/exports.yml names {sorted(unknown)}: no role is called so"


def test_what_is_backed_up_is_stored_everywhere():
    """In the lab by its groups, in a cloud by the roles of its nodes; preflight tells of other inventories."""
    stored = {role for role in ROLES if exports(role)["backups"]}
    assert "file_backup" in exports("minio")["clients"]["api"]
    lab = load(ROOT / "inventories/local/hosts.yml")["all"]["children"]
    assert set(lab["file_backup"]["children"]) == stored
    for path in ROOT.glob("terraform/environments/*/terraform.tfvars"):
        for line in re.findall(r"roles *= \[(.*)\]", path.read_text()):
            roles = set(re.findall(r'"(\w+)"', line))
            assert ("file_backup" in roles) == bool(roles & stored), f"{path}: {line}"


@pytest.mark.parametrize("role", ROLES)
def test_exported_ports_are_the_default_ones(role):
    for name, port in (exports(role).get("ports") or {}).items():
        assert defaults(role).get(f"{role}_{name}_port") == port, f"{role}_{name}_port is not {port}, as exported"


@pytest.mark.parametrize("role", ROLES)
def test_secrets_are_required_of_the_inventory(role):
    for name, secret in (exports(role).get("secrets") or {}).items():
        assert secret["kind"] in SECRET_KINDS, f"{name}: kind is one of {sorted(SECRET_KINDS)}"
    needed = {n for entry in specs(role) for n, o in options(role, entry).items() if o.get("required")}
    assert secret_names(role) <= needed, f"secrets not required in argument_specs: {secret_names(role) - needed}"


def test_a_secret_has_one_declaration():
    seen = {}
    for role in ROLES:
        for name, secret in (exports(role).get("secrets") or {}).items():
            assert seen.setdefault(name, (role, secret))[1] == secret, f"{name}: {role} and {seen[name][0]} disagree"


@pytest.mark.parametrize("role", ROLES)
def test_services_are_deployed_by_the_same_verbs(role):
    units = [unit for unit in exports(role).get("units") or [] if not unit.startswith("systemd-")]
    if not units:
        return
    present = {path.stem for path in (ROOT / f"roles/{role}/tasks").glob("*.yml")}
    assert present >= VERBS | {"main"}, f"missing task files: {sorted((VERBS | {'main'}) - present)}"
    imported = [
        next(iter(value.values())) if isinstance(value, dict) else value
        for task in load(ROOT / f"roles/{role}/tasks/main.yml")
        for name, value in task.items()
        if name in ("ansible.builtin.import_tasks", "ansible.builtin.include_tasks")
    ]
    verbs = [name for name in (Path(file).stem for file in imported) if name in VERBS]
    assert verbs == [verb for verb in ("preflight", "install", "configure", "service", "verify") if verb in verbs]
    assert set(verbs) == VERBS, f"main.yml does not import {sorted(VERBS - set(verbs))}"


@pytest.mark.parametrize("role", ROLES)
def test_roles_say_what_they_are_for(role):
    assert (ROOT / f"roles/{role}/README.md").exists(), f"roles/{role}/README.md is missing"


def values_of(node, name: str):
    """The values that stand under a name, a regular expression, anywhere in a YAML document."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    for key, value in node.items() if isinstance(node, dict) else ():
        if isinstance(key, str) and re.fullmatch(name, key):
            yield value
        yield from values_of(value, name)


def conditions(node) -> list[str]:
    """Every condition in what a file of tasks holds."""
    found = values_of(node, r"when|that|until|failed_when|changed_when")
    return [
        each for value in found for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)
    ]


def test_what_texts_tell_to_say_on_the_command_line_is_taken_as_yes_or_no():
    """Given with -e it is a text, which Ansible takes for no condition."""
    told = {
        name
        for path in tracked("docs/*.md", "playbooks/*.yml", "roles/*.yml", "roles/*.md")
        for name in re.findall(r"-e (\w+)=(?:true|false)", path.read_text())
    }
    options_told = told & {name for role in ROLES for name, option in options(role).items() if option["type"] == "bool"}
    assert {"pgbackrest_new_cluster", "artifacts_downgrade"} <= options_told
    for path in tracked("roles/*/tasks/*.yml", "playbooks/*.yml"):
        for condition in conditions(yaml.safe_load(path.read_text())):
            for name in options_told:
                assert not re.search(rf"\b{name}\b(?! \| bool)", condition), f"{path}: {condition}"


def test_no_environment_of_a_task_holds_a_secret():
    """It would be on a command line of the host and in sudo's log: the module secret_command takes secrets."""
    secret = re.compile(r"""(PASSWORD|SECRET\w*|TOKEN|PASSPHRASE)['"]?\s*:(?!\s*['"]?-)""")
    files = [
        *tracked("roles/*/tasks/*.yml", "roles/*/vars/*.yml", "playbooks/*.yml"),
        *tracked("playbooks/tasks/*.yml", "playbooks/drills/*.yml"),
    ]
    hits = {
        str(path.relative_to(ROOT))
        for path in files
        if "cloud_lab" not in path.parts  # of a test, gone with it
        for found in values_of(yaml.safe_load(path.read_text()), r"environment|\w+_environment")
        if secret.search(str(found))
    }
    assert not hits, hits


def variable_files() -> list[str]:
    """The group and host variable files of every environment, vaults aside."""
    files = chain(ROOT.glob("inventories/*/group_vars/**/*.yml"), ROOT.glob("inventories/*/host_vars/**/*.yml"))
    return [str(path.relative_to(ROOT)) for path in sorted(files) if path.name != "vault.yml"]


@pytest.mark.parametrize("file", variable_files())
def test_inventory_variables_are_declared_by_a_role(file):
    declared = {name for role in ROLES for entry in specs(role) for name in options(role, entry)}
    unknown = [name for name in load(ROOT / file) if name not in declared and not name.startswith("ansible_")]
    assert not unknown, f"{file} sets what no role knows (misspelt?): {unknown}"


FORBIDDEN = {
    "ignored errors": r"\bignore_errors\s*:",
    "failures declared away": r"\bfailed_when\s*:\s*(false|no|False)\b",
    "a shell that cannot fail": r"\|\|\s*(true|:)(?=\s|$|\))",
    "unfinished work": r"\b(TODO|FIXME|XXX)\b",
    "unchecked TLS": r"\b(validate_certs\s*:\s*(false|no)|verify\s*=\s*False|curl\s+(-\w*k\w*|--insecure))\b",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_nothing_hides_a_failure(what):
    pattern = re.compile(FORBIDDEN[what])
    files = tracked("roles", "playbooks", "site.yml", "ansible/plugins", "jobs", "dags", "molecule", ".ci", "Makefile")
    hits = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        if path.suffix in {".yml", ".yaml", ".py", ".j2", ".sh", ".sql", ""}
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not hits, "\n".join([what, *hits])


def test_hosts_are_called_by_their_names_in_the_inventory():
    """What a host calls itself was asked for before /etc/hosts was written, and is in no certificate."""
    files = tracked("roles", "playbooks", "inventories")
    own = re.compile(r"ansible_facts(\.|\[')(fqdn|hostname)\b|\bansible_(fqdn|hostname)\b")
    hits = [str(path.relative_to(ROOT)) for path in files if own.search(path.read_text(errors="replace"))]
    assert not hits, hits


# Where packages come from is the machine's own configuration, so that a mirror works: code names no outside host.
# Namespaces of XML documents look like addresses and are none.
OWN_HOSTS = re.compile(
    r"^(localhost|127\.0\.0\.1|\{|\$|%|<|\[|.*\.(internal|example|test|invalid)\b|.*example\.(com|org)|"
    r"maven\.apache\.org$|www\.w3\.org$|www\.apache\.org$|json-schema\.org$)"
)


def test_code_names_no_outside_host():
    files = tracked("roles", "playbooks", "ansible", "inventories", "jobs", "dags", "molecule", ".ci", "Makefile")
    hits = [
        f"{path.relative_to(ROOT)}:{number}: {url}"
        for path in files
        if path.suffix in {".yml", ".yaml", ".py", ".j2", ".sh", ".in", ".xml", ".mod", ".cfg", ""}
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        for url in re.findall(r"https?://([^\s/\"'`)>]+)", line if "Documentation=" not in line else "")
        if not OWN_HOSTS.match(url)
    ]
    assert not hits, "\n".join(hits)
