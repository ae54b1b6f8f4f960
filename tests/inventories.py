"""Cloud inventories for tests: instances as the compute API lists them, and what an inventory says of hosts and groups."""

from pathlib import Path

from ansible.inventory.manager import InventoryManager
from ansible.plugins.loader import inventory_loader
from environment import vault_loader

ROOT = Path(__file__).resolve().parents[1]


def server(name: str, address: str, metadata: dict[str, str], public: str | None = None) -> dict:
    """An instance as the compute API lists it."""
    addresses = [{"addr": address, "version": 4, "OS-EXT-IPS:type": "fixed"}]
    if public:
        addresses.append({"addr": public, "version": 4, "OS-EXT-IPS:type": "floating"})
    return {"id": f"id-{name}", "name": name, "addresses": {"net": addresses}, "metadata": metadata}


def static(path: Path) -> InventoryManager:
    """The inventory in a file."""
    return InventoryManager(loader=vault_loader(), sources=[str(path)])


def dynamic(monkeypatch, servers: list[dict], environment: str) -> InventoryManager:
    """The inventory of the environment's openstack.yml over these instances; no cloud is asked."""
    vault_loader()
    plugin = type(inventory_loader.get("openstack.cloud.openstack"))
    monkeypatch.setattr(plugin, "_fetch_servers", lambda self, path, cache: servers)
    return static(ROOT / f"inventories/{environment}/openstack.yml")


def contents(manager: InventoryManager) -> tuple[dict[str, set[str]], dict[str, dict]]:
    """(group to its hosts, children's included; host to what Terraform knows of it)."""
    groups = {name: {host.name for host in group.get_hosts()} for name, group in manager.groups.items()}
    hosts = {
        host.name: {
            "ansible_host": str(host.vars["ansible_host"]),
            "platform_address": str(host.vars["platform_address"]),
            "storage_volumes": [dict(volume) for volume in host.vars.get("storage_volumes") or []],
        }
        for host in manager.get_hosts()
    }
    return {name: members for name, members in groups.items() if members}, hosts
