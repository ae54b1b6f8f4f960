"""Makes what is missing in a new OpenStack: services' users and endpoints (`seed.py identity`), then what projects find there
(`seed.py projects`). One process, as it asks some hundred times. Reads what is wanted (vars/main.yml) from a JSON file and
prints a line for each thing made.
"""

import ipaddress
import json
import sys
from pathlib import Path

import openstack


def made(kind: str, name: str) -> None:
    """Say what was made: for the role, a line is a change."""
    print(f"made {kind} {name}", flush=True)


def user(cloud, name: str, password: str, project: str, roles: list[str]) -> None:
    """A user with roles in a project, both made when they are missing."""
    identity = cloud.identity
    if not (its := identity.find_project(project)):
        its = identity.create_project(name=project, domain_id="default")
        made("project", project)
    if not (who := identity.find_user(name)):
        who = identity.create_user(name=name, password=password, domain_id="default", default_project_id=its.id)
        made("user", name)
    for role in roles:
        if not (what := identity.find_role(role)):
            what = identity.create_role(name=role)
            made("role", role)
        if not identity.validate_user_has_project_role(its, who, what):
            identity.assign_project_role_to_user(its, who, what)
            made("role of", f"{name}: {role}")


def identity(cloud, wanted: dict) -> None:
    """Services of the catalogue, each with its user and its endpoint."""
    for kind, service in wanted["catalogue"].items():
        user(cloud, service["name"], wanted["service_password"], "service", ["admin", "service"])
        if not (it := next(cloud.identity.services(type=kind), None)):
            it = cloud.identity.create_service(name=service["name"], type=kind)
            made("service", kind)
        if not next(cloud.identity.endpoints(service_id=it.id), None):
            cloud.identity.create_endpoint(
                service_id=it.id, interface="public", region_id=wanted["region"], url=service["url"]
            )
            made("endpoint", service["url"])


def projects(cloud, wanted: dict) -> None:
    """The public network, flavors, an image, and each project with its member, quota and application credential."""
    if not (external := cloud.network.find_network("public")):
        external = cloud.network.create_network(
            name="public",
            is_router_external=True,
            provider_network_type="flat",
            provider_physical_network="external",
        )
        made("network", "public")
    if not cloud.network.find_subnet("public"):
        subnet = ipaddress.ip_network(wanted["floating_subnet"])
        cloud.network.create_subnet(
            name="public",
            network_id=external.id,
            cidr=str(subnet),
            ip_version=4,
            gateway_ip=str(subnet[1]),
            is_dhcp_enabled=False,
        )
        made("subnet", str(subnet))
    for name, size in wanted["flavors"].items():
        if not cloud.compute.find_flavor(name):
            cloud.compute.create_flavor(name=name, **size)
            made("flavor", name)
    if not cloud.image.find_image(wanted["image"]):
        cloud.image.create_image(
            name=wanted["image"],
            data=b"Instances of the fake driver boot nothing.\n",
            disk_format="raw",
            container_format="bare",
            visibility="public",
        )
        made("image", wanted["image"])
    for project in wanted["projects"]:
        user(cloud, project, wanted["member_password"], project, ["member"])
        its = cloud.identity.find_project(project).id
        for service, update, read in (
            ("compute", cloud.compute.update_quota_set, cloud.compute.get_quota_set),
            ("network", cloud.network.update_quota, cloud.network.get_quota),
            ("volume", cloud.block_storage.update_quota_set, cloud.block_storage.get_quota_set),
        ):
            quota = wanted["quota"][service]
            has = read(its)
            if any(has[name] != value for name, value in quota.items()):
                update(its, **quota)
                made("quota", f"{project} {service}")
        member = openstack.connect(cloud=f"{project}_member")
        who = member.current_user_id
        if not next(member.identity.application_credentials(who, name="terraform"), None):
            member.identity.create_application_credential(who, "terraform", secret=wanted["credential_secret"])
            made("application credential", project)


if __name__ == "__main__":
    {"identity": identity, "projects": projects}[sys.argv[1]](
        openstack.connect(cloud="cloud_lab_admin"), json.loads(Path(sys.argv[2]).read_text())
    )
