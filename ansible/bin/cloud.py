#!/usr/bin/env python3
"""An environment's machines in an OpenStack cloud: plan, apply, inventory, report, destroy.

    cloud.py plan dev
    cloud.py apply prod --replace worker3
    cloud.py apply dev --yes --lose lake1

Terraform does the work (terraform/environments/<env>). Before it, images, flavors, networks and quotas are checked; after it,
inventories/<env>/hosts.yml is written. A plan that would lose a node's data says so in red, and is applied only when that is
confirmed by name. Credentials come from clouds.yaml alone.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import cloud_plan
import openstack
from openstack.exceptions import SDKException

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / "terraform/environments"
RED, YELLOW, PLAIN = "\033[1;31m", "\033[33m", "\033[0m"
# What Terraform's variables say, before any of them is planned.
WANTED = "jsonencode({cloud = coalesce(var.cloud, var.environment), network = var.external_network, image = var.image, nodes = var.nodes})"


class Problem(Exception):
    """Something that the operator has to change; its text says what."""


def paint(color: str, text: str) -> str:
    """The text in a color, on a terminal that has some."""
    return f"{color}{text}{PLAIN}" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


class Terraform:
    """Terraform in an environment's directory. Raises Problem when it fails or is missing."""

    def __init__(self, environment: str, directory: Path | None = None):
        self.environment = environment
        self.directory = directory or ENVIRONMENTS / environment
        if not (self.directory / "terraform.tfvars").exists():
            known = sorted(path.parent.name for path in ENVIRONMENTS.glob("*/terraform.tfvars"))
            raise Problem(f"terraform/environments/{environment} does not exist: choose one of {', '.join(known)}.")
        self.program = shutil.which("terraform")
        if not self.program:
            raise Problem("terraform is not installed: docs/installation-openstack.md says which version.")
        self.planned = self.directory / ".terraform/etl.tfplan"

    def run(self, *arguments: str, capture: bool = True, stdin: str | None = None, ok: Iterable[int] = (0,)):
        """Run a subcommand; returns the completed process. Its output is captured, or shown as it comes."""
        done = subprocess.run(
            [self.program, f"-chdir={self.directory}", *arguments],
            env=os.environ | {"TF_IN_AUTOMATION": "1", "TF_INPUT": "0"},
            input=stdin,
            stdout=subprocess.PIPE if capture else None,
            stderr=subprocess.PIPE if capture else None,
            text=True,
        )
        if done.returncode not in ok:
            raise Problem(f"terraform {arguments[0]} failed.\n{((done.stdout or '') + (done.stderr or '')).strip()}")
        return done

    def init(self) -> None:
        """Download providers and modules and open the state."""
        settings = self.directory / "state.tfbackend"
        if not settings.exists():
            raise Problem(
                f"{settings.relative_to(ROOT)} is missing: copy terraform/environments/state.tfbackend.example there and "
                "name the bucket that keeps the state (docs/installation-openstack.md)."
            )
        key = f"-backend-config=key={self.environment}/terraform.tfstate"
        self.run("init", "-no-color", f"-backend-config={settings.name}", key)

    def wanted(self) -> dict:
        """The variables that name things of the cloud: cloud, network, image, nodes."""
        answer = self.run("console", "-no-color", stdin=WANTED + "\n").stdout
        return json.loads(json.loads(answer.strip().splitlines()[-1]))

    def plan(self, *arguments: str) -> dict:
        """Plan, keep the plan for `apply`, and return it as JSON."""
        try:
            self.run("plan", "-no-color", f"-out={self.planned}", *arguments)
        except Problem as problem:
            if "Instance cannot be destroyed" in str(problem):
                raise Problem(
                    f"{problem}\n\nThe plan would destroy protected data volumes, so it is refused. If they shall go: "
                    "docs/runbooks/cloud-replace-node.md, “Giving up a volume”."
                ) from problem
            raise
        return json.loads(self.run("show", "-json", str(self.planned)).stdout)

    def apply(self) -> None:
        """Carry out the kept plan; Terraform's progress is shown."""
        try:
            sys.stdout.flush()
            self.run("apply", str(self.planned), capture=False)
        finally:
            self.planned.unlink()

    def output(self, name: str):
        """An output of the applied state. Raises Problem when nothing is applied yet."""
        outputs = json.loads(self.run("output", "-json").stdout)
        if name not in outputs:
            raise Problem(
                f"{self.environment} has no output '{name}': apply it first (make apply ENV={self.environment})."
            )
        return outputs[name]["value"]


def connect(cloud: str):
    """A connection to a cloud of clouds.yaml. Raises Problem when there is none or it does not answer."""
    try:
        connection = openstack.connect(cloud=cloud)
        connection.authorize()
    except SDKException as error:
        raise Problem(
            f"Cloud '{cloud}': {error}\nIt has to be in clouds.yaml (here, in ~/.config/openstack or /etc/openstack)."
        ) from error
    return connection


def missing_names(wanted: dict, connection) -> list[str]:
    """Sentences on every network, flavor and image that the variables name and the cloud does not have."""
    problems = []
    externals = {network.name for network in connection.network.networks(is_router_external=True)}
    if wanted["network"] not in externals:
        problems.append(f"external_network '{wanted['network']}' is not there; external networks: {listed(externals)}.")
    nodes = {name: node for name, node in wanted["nodes"].items() if node.get("count", 0) > 0}
    flavors = {flavor.name for flavor in connection.compute.flavors()}
    for flavor, users in used(nodes, "flavor", None).items():
        if flavor not in flavors:
            problems.append(f"flavor '{flavor}' ({listed(users)}) is not there; flavors: {listed(flavors)}.")
    images = {image.name for image in connection.image.images(status="active")}
    for image, users in used(nodes, "image", wanted["image"]).items():
        if image not in images:
            problems.append(f"image '{image}' ({listed(users)}) is not there or not active; images: {listed(images)}.")
    return problems


def used(nodes: dict, what: str, default: str | None) -> dict[str, list[str]]:
    """Value of an attribute to the node groups that have it."""
    values: dict[str, list[str]] = {}
    for name, node in nodes.items():
        values.setdefault(node.get(what) or default, []).append(name)
    return values


def listed(names: Iterable[str]) -> str:
    """Names in order, the first dozen of them."""
    names = sorted(names)
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "") or "none"


def free_quota(connection, volumes: bool) -> dict[str, int]:
    """What the project may still use, by the names of `cloud_plan.needs`, cores and RAM (MB) too; unlimited ones are left out."""
    compute = connection.compute.get_limits().absolute
    limits = {
        "instances": (compute.instances, compute.instances_used),
        "cores": (compute.total_cores, compute.total_cores_used),
        "MB of RAM": (compute.total_ram, compute.total_ram_used),
        "server groups": (compute.server_groups, compute.server_groups_used),
    }
    if volumes:
        storage = connection.block_storage.get_limits().absolute
        limits["volumes"] = (storage.max_total_volumes, storage.total_volumes_used)
        limits["gigabytes"] = (storage.max_total_volume_gigabytes, storage.total_gigabytes_used)
    network = connection.network.get_quota(connection.current_project_id, details=True)
    for name in ("floating_ips", "ports", "security_groups", "security_group_rules", "networks", "subnets", "routers"):
        quota = getattr(network, name) or {"limit": -1, "used": 0}
        limits[name.replace("_ips", " IPs").replace("_", " ")] = (quota["limit"], quota["used"])
    return {name: limit - used for name, (limit, used) in limits.items() if limit is not None and limit >= 0}


def exceeded(needs: Counter, connection) -> list[str]:
    """Sentences on every quota that is too small for what a plan adds."""
    if not needs:
        return []
    flavors = {flavor.name: flavor for flavor in connection.compute.flavors()}
    for name, count in [item for item in needs.items() if item[0].startswith("flavor:")]:
        flavor = flavors[name.removeprefix("flavor:")]
        needs = needs + Counter({"cores": flavor.vcpus * count, "MB of RAM": flavor.ram * count})
    free = free_quota(connection, needs["volumes"] > 0 or needs["gigabytes"] > 0)
    return [
        f"{name}: {needs[name]} more are needed, the project may have {max(0, left)} more."
        for name, left in free.items()
        if needs[name] > left
    ]


def overfull(needs: Counter, nodes: dict, connection) -> list[str]:
    """Sentences on every node group that a plan with new instances makes larger than a server group may be."""
    if not needs["instances"]:
        return []
    most = connection.compute.get_limits().absolute.server_group_members
    return [
        f"server group members: {name} has {node['count']} hosts, a server group of the project may have {most}."
        for name, node in nodes.items()
        if (node.get("affinity") or "none") != "none" and most is not None and 0 <= most < node["count"]
    ]


def refuse(environment: str, problems: list[str]) -> None:
    """Raise a Problem that lists them, if there are any."""
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise Problem(f"The cloud cannot take {environment}:\n{lines}\nChange terraform.tfvars, or ask for more quota.")


def show(plan: dict) -> None:
    """Print the plan's summary and, in red, what nodes would lose by it."""
    print("\n".join(cloud_plan.summary(plan)))
    for node in cloud_plan.endangered(plan):
        if node.losses:
            print(paint(RED, f"  LOSES DATA  {node.name}: {'; '.join(node.losses)}"))
        elif node.instance:
            kept = f"; {', '.join(node.kept)} stay on their volumes" if node.kept else ""
            print(paint(YELLOW, f"  {node.instance:11} {node.name}{kept}"))
        if node.archived:
            how = "playbooks/backup.yml before, playbooks/restore_files.yml after"
            print(paint(YELLOW, f"  {'back up':11} {node.name}: {', '.join(node.archived)} ({how})"))


def confirm(environment: str, plan: dict, yes: bool, lose: list[str]) -> None:
    """Ask for what `--yes` and `--lose` have not answered. Raises Problem unless the operator agrees."""
    if not cloud_plan.changes(plan):
        return
    names = {node.name for node in cloud_plan.endangered(plan) if node.losses}
    if names - set(lose):
        if not sys.stdin.isatty():
            options = " ".join(f"--lose {name}" for name in sorted(names))
            raise Problem(
                f"The data of {listed(names)} would be lost. Nothing was changed. To agree: ARGS='--yes {options}'"
            )
        print(paint(RED, f"The data of {listed(names)} will be gone."))
        if input("Type their names, separated by spaces, to go on: ").split() != sorted(names):
            raise Problem("Nothing was changed.")
    elif not yes:
        if not sys.stdin.isatty():
            raise Problem("Nothing was changed: there is no terminal to ask at. To agree: ARGS=--yes")
        if input(f"Apply this to {environment}? Only 'yes' goes on: ") != "yes":
            raise Problem("Nothing was changed.")


def write_inventory(terraform: Terraform, directory: Path | None = None) -> Path:
    """Write inventories/<env>/hosts.yml from the applied state, and beside it which state that is (terraform.json: serial, lineage),
    for the releases' manifests. Raises Problem when a file of other making is there."""
    path = (directory or ROOT / "inventories" / terraform.environment) / "hosts.yml"
    text = cloud_plan.render(terraform.environment, terraform.output("inventory"))
    first = text.splitlines()[0]
    if path.exists() and not path.read_text().startswith(first):
        raise Problem(f"{path} was not written by this command: move it away first.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    state = json.loads(terraform.run("state", "pull").stdout)
    path.with_name("terraform.json").write_text(json.dumps({key: state[key] for key in ("serial", "lineage")}) + "\n")
    return path


def prepare(terraform: Terraform, *arguments: str, replace: Iterable[str] = ()) -> dict:
    """Check the cloud, plan, print, check quotas and that the named hosts are replaced. Returns the plan."""
    terraform.init()
    wanted = terraform.wanted()
    connection = connect(wanted["cloud"])
    refuse(terraform.environment, missing_names(wanted, connection))
    plan = terraform.plan(*arguments, *replaced(replace))
    show(plan)
    if unknown := set(replace) - {node.name for node in cloud_plan.endangered(plan) if node.instance == "replace"}:
        raise Problem(
            f"--replace: {terraform.environment} has no host {listed(unknown)} that stays. Nothing was changed."
        )
    needs = cloud_plan.needs(plan)
    problems = cloud_plan.shrinking(plan) + exceeded(needs, connection) + overfull(needs, wanted["nodes"], connection)
    refuse(terraform.environment, problems)
    return plan


def replaced(hosts: Iterable[str]) -> list[str]:
    """Terraform's arguments that make the hosts' instances anew; their addresses and volumes stay."""
    return [f'-replace=module.nodes.{cloud_plan.INSTANCE}.this["{host}"]' for host in hosts]


def plan(terraform: Terraform, options: argparse.Namespace) -> None:
    """Say what `apply` would do."""
    prepare(terraform, replace=options.replace)
    terraform.planned.unlink()


def apply(terraform: Terraform, options: argparse.Namespace) -> None:
    """Make the cloud what the configuration says, and write the inventory."""
    confirm(terraform.environment, prepare(terraform, replace=options.replace), options.yes, options.lose)
    terraform.apply()
    inventory(terraform, options)
    print(f"Next: make deploy ENV={terraform.environment}")


def destroy(terraform: Terraform, options: argparse.Namespace) -> None:
    """Take the environment down, its inventory too. Protected volumes refuse it."""
    confirm(terraform.environment, prepare(terraform, "-destroy"), options.yes, options.lose)
    terraform.apply()
    path = ROOT / "inventories" / terraform.environment / "hosts.yml"
    if path.exists() and path.read_text().startswith(cloud_plan.HEADER.format(environment=terraform.environment)):
        path.unlink()
        path.with_name("terraform.json").unlink(missing_ok=True)


def inventory(terraform: Terraform, options: argparse.Namespace) -> None:
    """Write the inventory of what is applied."""
    print(f"Wrote {write_inventory(terraform).relative_to(ROOT)}")


def report(terraform: Terraform, options: argparse.Namespace) -> None:
    """Print what runs, and where cloud, configuration and inventory differ."""
    terraform.init()
    connection = connect(terraform.wanted()["cloud"])
    print("\n".join(running(terraform.environment, connection)))
    print("\nConfiguration against cloud:")
    show(terraform.plan("-lock=false"))
    terraform.planned.unlink()
    path = ROOT / "inventories" / terraform.environment / "hosts.yml"
    expected = cloud_plan.render(terraform.environment, terraform.output("inventory"))
    same = path.exists() and path.read_text() == expected
    print(
        f"\n{path.relative_to(ROOT)} is {'up to date' if same else 'NOT what is applied: cloud.py inventory ' + terraform.environment}."
    )


def running(environment: str, connection) -> list[str]:
    """A line for each of the environment's instances: name, state, flavor, addresses, groups."""
    rows = [("host", "state", "flavor", "addresses", "groups")]
    for server in sorted(connection.compute.servers(details=True), key=lambda server: server.name):
        if (server.metadata or {}).get("environment") == environment:
            addresses = [address["addr"] for network in (server.addresses or {}).values() for address in network]
            flavor = (server.flavor or {}).get("original_name") or "?"
            rows.append((server.name, server.status, flavor, " ".join(addresses), server.metadata.get("groups", "")))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows]


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run the chosen command."""
    commands = {command.__name__: command for command in (plan, apply, destroy, inventory, report)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=commands)
    parser.add_argument("environment")
    parser.add_argument("--yes", action="store_true", help="do not ask; data is lost only with --lose")
    parser.add_argument("--replace", action="append", default=[], metavar="HOST", help="make this host's instance anew")
    parser.add_argument("--lose", action="append", default=[], metavar="HOST", help="agree to lose this host's data")
    options = parser.parse_args(arguments)
    try:
        terraform = Terraform(options.environment)
        if options.command == "inventory":
            terraform.init()
        commands[options.command](terraform, options)
    except Problem as problem:
        print(paint(RED, str(problem)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
