#!/usr/bin/env python3
"""An environment's inventory for people and tests: psql, ssh, credentials.

    environment.py -i inventories/local/hosts.yml psql -- -c "table etl.run"
    environment.py -i inventories/local/hosts.yml ssh compute1 -- systemctl --failed
    environment.py -i inventories/local/hosts.yml credentials

Values come from the inventory and its vault, templated by Ansible; a password is never put on a command line.
"""

import argparse
import os
import shlex
import sys
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("ANSIBLE_CONFIG", str(ROOT / "ansible.cfg"))

from ansible import constants  # noqa: E402
from ansible.cli import CLI  # noqa: E402
from ansible.inventory.manager import InventoryManager  # noqa: E402
from ansible.parsing.dataloader import DataLoader  # noqa: E402
from ansible.plugins.loader import init_plugin_loader  # noqa: E402
from ansible.template import Templar  # noqa: E402
from ansible.vars.hostvars import HostVars  # noqa: E402
from ansible.vars.manager import VariableManager  # noqa: E402


@cache
def vault_loader() -> DataLoader:
    """A loader that opens vaults with this operator's password; Ansible allows one a process."""
    init_plugin_loader()
    loader = DataLoader()
    loader.set_basedir(str(ROOT))
    password_file = constants.config.get_config_value("DEFAULT_VAULT_PASSWORD_FILE")
    loader.set_vault_secrets(
        CLI.setup_vault_secrets(loader, vault_ids=[], vault_password_files=[password_file] if password_file else [])
    )
    return loader


class Environment:
    """The hosts and variables of one inventory."""

    def __init__(self, inventory: str | Path = ROOT / "inventories/local/hosts.yml"):
        self.inventory = Path(inventory).resolve()

    @property
    def _loader(self) -> DataLoader:
        return vault_loader()

    @cached_property
    def _manager(self) -> InventoryManager:
        return InventoryManager(loader=self._loader, sources=[str(self.inventory)])

    @cached_property
    def _variables(self) -> VariableManager:
        variables = VariableManager(loader=self._loader, inventory=self._manager)
        HostVars(self._manager, variables, self._loader)  # registers itself: values look at other hosts
        return variables

    def hosts(self, pattern: str = "all") -> list[str]:
        """The names of the hosts that a pattern matches, in inventory order."""
        return [host.name for host in self._manager.get_hosts(pattern)]

    @property
    def groups(self) -> set[str]:
        """The names of the inventory's groups."""
        return set(self._manager.groups)

    def value(self, name: str, host: str | None = None):
        """A variable as this host (default: the first one) sees it, templated. Raises KeyError when it has none."""
        host = host or self.hosts()[0]
        variables = self._variables.get_vars(host=self._manager.get_host(host))
        if name not in variables:
            raise KeyError(f"{name} is not set for {host} in {self.inventory}")
        return Templar(loader=self._loader, variables=variables).template(variables[name])

    @cached_property
    def secrets(self) -> dict[str, str]:
        """The environment's vault: name to value, key files aside. Empty when there is none yet."""
        vault = self.inventory.parent / "group_vars/all/vault.yml"
        values = self._loader.load_from_file(str(vault)) if vault.exists() else {}
        return {
            name: str(value)
            for name, value in values.items()
            if "\n" not in str(value).strip() and not name.endswith("_public")
        }

    @property
    def ca_file(self) -> Path:
        """The environment's CA certificate on the controller."""
        return self.inventory.parent / "pki" / "ca.crt"

    def ssh(self, host: str) -> list[str]:
        """The ssh command line for a host, ready for a remote command to be added."""
        user, key = self.value("ansible_user", host), self.value("ansible_ssh_private_key_file", host)
        options = shlex.split(self.value("ansible_ssh_common_args", host))
        # Where inventories/cloud.yml shares the bastion's connection; Ansible makes it too.
        Path("~/.ansible/cp").expanduser().mkdir(mode=0o700, parents=True, exist_ok=True)
        return ["ssh", "-i", key, *options, f"{user}@{self.value('ansible_host', host)}"]

    def warehouse(self, role: str = "read") -> dict[str, str]:
        """libpq connection parameters of etl_<role>: verified by name, reached by address."""
        host = self.value("platform_dwh_host")
        parameters = {
            "host": host,
            "port": str(self.value("platform_dwh_port")),
            "dbname": self.value("platform_dwh_database"),
            "user": f"etl_{role}",
            "password": self.value(f"platform_dwh_{role}_password"),
            "sslmode": "verify-full",
            "sslrootcert": str(self.ca_file),
        }
        name = host.split(".")[0]
        if name in self.hosts():
            parameters["hostaddr"] = self.value("ansible_host", name)
        return parameters


def psql(environment: Environment, arguments: list[str]) -> None:
    """Become psql on the warehouse as etl_read."""
    names = {"dbname": "DATABASE", "sslmode": "SSLMODE", "sslrootcert": "SSLROOTCERT"}
    parameters = environment.warehouse()
    os.environ.update({f"PG{names.get(key, key.upper())}": value for key, value in parameters.items()})
    os.execvp("psql", ["psql", *arguments])


def ssh(environment: Environment, arguments: list[str]) -> None:
    """Become ssh to a host."""
    host, *command = arguments
    if host not in environment.hosts():
        sys.exit(f"{host} is not in {environment.inventory}: choose one of {', '.join(environment.hosts())}")
    os.execvp("ssh", [*environment.ssh(host), *[word for word in command if word != "--"]])


def credentials(environment: Environment, _: list[str]) -> None:
    """Print what a person logs in with."""
    rows = [
        ("Airflow", "platform_airflow_url", "admin", "airflow_admin_password"),
        ("Object store", "platform_s3_endpoint", "root", "minio_root_password"),
        ("Warehouse, read-only", "platform_dwh_host", "etl_read", "platform_dwh_read_password"),
    ]
    for what, where, user, password in rows:
        print(f"{what:22} {environment.value(where):42} {user:10} {environment.value(password)}")
    for what, port, user, password in (
        ("Grafana", 3000, "admin", "grafana_admin_password"),
        ("Kibana", 5601, "etl-reader", "elasticsearch_reader_password"),
    ):
        for host in environment.hosts(what.lower()) if what.lower() in environment.groups else []:
            url = f"https://{host}.{environment.value('platform_domain')}:{port}"
            print(f"{what:22} {url:42} {user:10} {environment.value(password)}")
    nifi = f"https://{environment.value('platform_nifi_host')}:{environment.value('platform_nifi_port')}"
    print(f"{'NiFi':22} {nifi:42} certificate /etc/nifi/admin/nifi-admin.{{crt,key}} on that host")
    print(f"\nThe vault: ansible-vault view {environment.inventory.parent}/group_vars/all/vault.yml")


def main() -> None:
    """Parse the command line and run the chosen command."""
    commands = {command.__name__: command for command in (psql, ssh, credentials)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--inventory", default=ROOT / "inventories/local/hosts.yml")
    parser.add_argument("command", choices=commands)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    commands[options.command](Environment(options.inventory), arguments)


if __name__ == "__main__":
    main()
