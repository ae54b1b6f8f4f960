"""What a Terraform plan means for a platform: pure functions over `terraform show -json` and `terraform output -json`."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"

INSTANCE = "openstack_compute_instance_v2"
VOLUME = "openstack_blockstorage_volume_v3"
PORT = "openstack_networking_port_v2"

# Where a role keeps what cannot be made again.
DATA = {
    "minio": ("/var/lib/minio", "the lake's objects"),
    "postgresql": ("/var/lib/postgresql", "the warehouse and Airflow's metadata"),
    "nifi": ("/var/lib/nifi", "flow files on their way"),
    "elasticsearch": ("/var/lib/elasticsearch", "the logs"),
    "prometheus": ("/var/lib/prometheus", "the history of metrics"),
}
VERBS = {
    ("create",): "create",
    ("update",): "change",
    ("delete",): "destroy",
    ("create", "delete"): "replace",
    ("delete", "create"): "replace",
}
HEADER = "# Written by `make apply ENV={environment}` from the Terraform output `inventory`. Changes are overwritten.\n"


@dataclass
class Node:
    """What a plan does to one host that exists."""

    name: str
    instance: str = ""  # destroy, replace or nothing
    losses: list[str] = field(default_factory=list)  # data that would be gone
    kept: list[str] = field(default_factory=list)  # mounts whose volumes stay
    archived: list[str] = field(default_factory=list)  # what only a backup brings back


def verb(change: dict) -> str:
    """create, change, replace or destroy; empty for what stays, is read or only forgotten."""
    return VERBS.get(tuple(change["change"]["actions"]), "")


def changes(plan: dict) -> list[dict]:
    """The plan's resource changes that do something, data sources aside."""
    return [change for change in plan.get("resource_changes") or [] if change["mode"] == "managed" and verb(change)]


def volume_mounts(metadata: dict) -> dict[str, str]:
    """Volume name to mount, from an instance's metadata (`volume_<name>: <id>:<mount>`)."""
    return {
        key.removeprefix("volume_"): value.split(":", 1)[1]
        for key, value in metadata.items()
        if key.startswith("volume_") and ":" in value
    }


def covers(mount: str, path: str) -> bool:
    """Whether what is under `path` lies on the volume at `mount`, or on volumes below `path`."""
    return f"{path}/".startswith(f"{mount}/") or f"{mount}/".startswith(f"{path}/")


@cache
def backups(role: str) -> list[str]:
    """The paths of a role that are stored as files (roles/file_backup)."""
    path = ROLES / role / "meta/exports.yml"
    return yaml.safe_load(path.read_text())["backups"] if path.exists() else []


def endangered(plan: dict) -> list[Node]:
    """Hosts whose instance or data volumes the plan destroys or replaces, by name. `losses` says what would be gone."""
    nodes: dict[str, Node] = {}
    gone = [change for change in changes(plan) if verb(change) in ("destroy", "replace")]
    lost_volumes: dict[str, set[str]] = {}
    for change in gone:
        if change["type"] == VOLUME:
            host, volume = str(change["index"]).rsplit("-", 1)
            size = (change["change"]["before"] or {}).get("size", "?")
            lost_volumes.setdefault(host, set()).add(volume)
            nodes.setdefault(host, Node(host)).losses.append(f"volume {volume} ({size} GB)")
    for change in gone:
        if change["type"] != INSTANCE:
            continue
        host = str(change["index"])
        node = nodes.setdefault(host, Node(host))
        node.instance = verb(change)
        metadata = (change["change"]["before"] or {}).get("metadata") or {}
        mounts = volume_mounts(metadata)
        node.kept = sorted(path for name, path in mounts.items() if name not in lost_volumes.get(host, ()))
        for role in metadata.get("groups", "").split(","):
            path, what = DATA.get(role, ("", ""))
            if path and not any(covers(mount, path) for mount in mounts.values()):
                node.losses.append(f"{path} on the root disk: {what}")
            places = [*mounts.values(), path] if path else mounts.values()
            node.archived += [kept for kept in backups(role) if not any(covers(place, kept) for place in places)]
    return sorted(nodes.values(), key=lambda node: node.name)


def summary(plan: dict) -> list[str]:
    """One line of counts, then one for every node group or kind of resource that the plan touches."""
    touched = changes(plan)
    if not touched:
        return ["Nothing to change: the cloud is as the configuration says."]
    counts = Counter(verb(change) for change in touched)
    lines = [
        ", ".join(f"{counts[name]} to {name}" for name in ("create", "change", "replace", "destroy") if counts[name])
    ]
    rows: dict[tuple[str, str], list[str]] = {}
    for change in touched:
        kind = change["type"].removeprefix("openstack_").rsplit("_v", 1)[0].split("_", 1)[-1].replace("_", " ")
        rows.setdefault((verb(change), kind), []).append(str(change.get("index", change["name"])))
    for (action, kind), names in sorted(rows.items()):
        many = len(names) > 8
        shown = ", ".join(sorted(names)[:8]) + (f" and {len(names) - 8} more" if many else "")
        if many and kind not in ("instance", "volume"):
            shown = ""
        lines.append(f"  {action:8} {len(names):4} {kind:22} {shown}".rstrip())
    return lines


def needs(plan: dict) -> Counter:
    """What the plan adds to the project's usage: instances by flavor (`flavor:<name>`), volumes, gigabytes, addresses, …

    What it frees is not subtracted, as a replacement may exist beside what it replaces.
    """
    kinds = {
        PORT: "ports",
        VOLUME: "volumes",
        "openstack_networking_floatingip_v2": "floating IPs",
        "openstack_networking_secgroup_v2": "security groups",
        "openstack_networking_secgroup_rule_v2": "security group rules",
        "openstack_networking_network_v2": "networks",
        "openstack_networking_subnet_v2": "subnets",
        "openstack_networking_router_v2": "routers",
        "openstack_compute_servergroup_v2": "server groups",
    }
    wanted = Counter()
    for change in changes(plan):
        after = change["change"]["after"] or {}
        if verb(change) == "change" and change["type"] == VOLUME:
            wanted["gigabytes"] += max(0, after["size"] - change["change"]["before"]["size"])
        if verb(change) != "create":
            continue
        if change["type"] == INSTANCE:
            wanted["instances"] += 1
            wanted[f"flavor:{after['flavor_name']}"] += 1
        elif change["type"] in kinds:
            wanted[kinds[change["type"]]] += 1
            if change["type"] == VOLUME:
                wanted["gigabytes"] += after["size"]
    return wanted


def shrinking(plan: dict) -> list[str]:
    """Sentences on every volume that the plan would make smaller, which no cloud does."""
    return [
        f"volume {change['index']} has {before['size']} GB and cannot shrink to {after['size']}."
        for change in changes(plan)
        if change["type"] == VOLUME and verb(change) == "change"
        for before, after in [(change["change"]["before"], change["change"]["after"])]
        if after["size"] < before["size"]
    ]


def render(environment: str, inventory: dict) -> str:
    """The text of inventories/<env>/hosts.yml for the output `inventory`."""
    body = yaml.safe_dump(inventory, default_flow_style=None, sort_keys=False, width=150, allow_unicode=True)
    return HEADER.format(environment=environment) + "---\n" + body


def groups_of(inventory: dict) -> dict[str, set[str]]:
    """Group to all its hosts, children's included."""
    found: dict[str, set[str]] = {}

    def walk(name: str, group: dict) -> set[str]:
        hosts = set(group.get("hosts") or {})
        for child, members in (group.get("children") or {}).items():
            hosts |= walk(child, members or {})
        found[name] = found.get(name, set()) | hosts
        return hosts

    walk("all", inventory["all"])
    return found
