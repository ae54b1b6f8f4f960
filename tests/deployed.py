"""A deployed platform, as tests see it: its inventory, its hosts over ssh, its playbooks."""

import json
import os
import shlex
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import requests
import testinfra
import yaml
from environment import Environment

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Play:
    """What a playbook run did."""

    returncode: int
    output: dict
    stderr: str

    def _results(self):
        for play in self.output.get("plays", []):
            for task in play["tasks"]:
                for host, result in task["hosts"].items():
                    yield host, task["task"]["name"], result

    @property
    def changed(self) -> dict[tuple[str, str], dict]:
        """The results of the tasks that changed something, by host and task name without its role."""
        return {(host, name.split(" : ")[-1]): r for host, name, r in self._results() if r.get("changed")}

    def result(self, task: str) -> dict:
        """The result of a task, {} when it did not run."""
        return next((r for _, name, r in self._results() if name.split(" : ")[-1] == task), {})

    @property
    def failed(self) -> list[str]:
        """host: task: message (and error output) of what failed, of each item of a loop."""
        found = [(h, n, r) for h, n, r in self._results() if r.get("failed") or r.get("unreachable")]
        items = [
            (h, n, item) for h, n, r in found for item in [r, *(i for i in r.get("results", ()) if i.get("failed"))]
        ]
        return [f"{h}: {n}: {r.get('msg')} {r.get('stderr') or ''}".rstrip() for h, n, r in items]


class Deployed:
    """The platform of one inventory (ETL_INVENTORY, default: the lab)."""

    def __init__(self, inventory: Path | None = None):
        default = os.environ.get("ETL_INVENTORY", ROOT / "inventories/local/hosts.yml")
        self.environment = Environment(inventory or default)

    @property
    def hosts(self) -> list[str]:
        return self.environment.hosts()

    @cached_property
    def units(self) -> dict[str, list[str]]:
        """The systemd units that roles export, by host."""
        found = {host: [] for host in self.hosts}
        for path in sorted(ROOT.glob("roles/*/meta/exports.yml")):
            role = path.parents[1].name
            for unit in yaml.safe_load(path.read_text())["units"]:
                # A unit whose name is a group's (spark-worker: spark_worker) runs on that group's hosts only;
                # a role without a group is turned off, but for those that every host has.
                groups = (unit.removesuffix(".service").replace("-", "_"), role)
                place = next((name for name in groups if name in self.environment.groups), None)
                place = "all" if role in ("common", "firewall") else place
                for host in self.environment.hosts(place) if place else []:
                    found[host].append(unit)
        return found

    def host(self, name: str) -> testinfra.host.Host:
        """A testinfra host, with sudo."""
        value = self.environment.value
        return testinfra.get_host(
            f"ssh://{value('ansible_user', name)}@{value('ansible_host', name)}?sudo=true",
            ssh_identity_file=value("ansible_ssh_private_key_file", name),
            ssh_extra_args=value("ansible_ssh_common_args", name),
        )

    def run(self, host: str, command: str) -> str:
        """The standard output of a command run as root on a host. Raises CalledProcessError when it fails."""
        done = subprocess.run(
            [*self.environment.ssh(host), f"sudo sh -c {shlex.quote(command)}"], capture_output=True, text=True
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def reaches(self, host: str, address: str, port: int) -> bool:
        """Whether a TCP connection from a host to an address is accepted within three seconds."""
        attempt = f"import socket; s = socket.socket(); s.settimeout(3); print(s.connect_ex(({address!r}, {port})))"
        return self.run(host, f"python3 -c {shlex.quote(attempt)}").strip() == "0"

    def invocations(self) -> dict[tuple[str, str], str]:
        """What systemd calls the present run of every unit: it changes with each (re)start. Keys: host and unit."""
        found = {}
        for host, units in self.units.items():
            if units:
                shown = self.run(host, f"systemctl show -p Id -p InvocationID {' '.join(units)}")
                for block in shown.strip().split("\n\n"):
                    properties = dict(line.split("=", 1) for line in block.splitlines())
                    found[host, properties["Id"]] = properties["InvocationID"]
        return found

    def playbook(self, name: str, *arguments: str, root: Path = ROOT, timeout: float = 3600) -> Play:
        """Run a playbook of the repository (`root`: of another checkout); `timeout` in seconds."""
        done = subprocess.run(
            [str(ROOT / ".venv/bin/ansible-playbook"), "-i", str(self.environment.inventory), name, *arguments],
            cwd=root,
            env=os.environ
            | {"ANSIBLE_CONFIG": str(root / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
            | {"ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.json"},  # that one alone: empty is refused
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        start = done.stdout.find("{\n")
        output = json.loads(done.stdout[start:]) if start >= 0 else {}
        return Play(done.returncode, output, done.stdout[:start] + done.stderr)


class Service:
    """A TLS API of the observing host, by address, with a user and password."""

    def __init__(self, platform: Deployed, role: str, port: int, user: str, secret: str):
        host = platform.environment.hosts(role)[0]
        self.url = f"https://{platform.environment.value('ansible_host', host)}:{port}"
        self.session = requests.Session()
        self.session.trust_env = False  # a CA bundle of the machine would take the place of the environment's
        self.session.verify = str(platform.environment.ca_file)
        self.session.auth = (user, platform.environment.secrets[secret])

    def get(self, path: str, **query):
        """The JSON answer of a GET."""
        answer = self.session.get(self.url + path, params=query, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: dict):
        """The JSON answer of a POST of JSON."""
        answer = self.session.post(self.url + path, json=body, timeout=30)
        answer.raise_for_status()
        return answer.json()

    def delete(self, path: str) -> None:
        """DELETE a path."""
        self.session.delete(self.url + path, timeout=30).raise_for_status()
