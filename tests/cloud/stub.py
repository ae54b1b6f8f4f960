"""As much of an OpenStack as Terraform needs to plan, apply and destroy: it remembers what is made, and runs nothing."""

import json
import re
import threading
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PROJECT = "0123456789abcdef0123456789abcdef"
FLAVORS = {"m1.small": (1, 2048), "m1.medium": (2, 4096), "m1.large": (4, 8192), "m1.xlarge": (8, 16384)}


def quota(limit: int, used: int = 0) -> dict:
    return {"limit": limit, "used": used, "reserved": 0}


def answers(base: str, security_groups: int = 10) -> dict[str, dict]:
    """Path to the answer's body, the versions of each service included."""
    versions = {
        "/identity": {"id": "v3.14", "path": "v3"},
        "/compute": {"id": "v2.1", "path": "v2.1", "version": "2.90", "min_version": "2.1"},
        "/network": {"id": "v2.0", "path": "v2.0"},
        "/image": {"id": "v2.9", "path": "v2"},
        "/volume": {"id": "v3.0", "path": "v3", "version": "3.70", "min_version": "3.0"},
    }
    found = {}
    for service, version in versions.items():
        path = f"{service}/{version.pop('path')}"
        described = version | {"status": "stable", "links": [{"rel": "self", "href": f"{base}{path}/"}]}
        found |= {path: {"version": described}, service: {"versions": [described]}}
    return found | {
        "/compute/v2.1/flavors/detail": {
            "flavors": [
                {"id": name, "name": name, "vcpus": cores, "ram": ram, "disk": 20}
                for name, (cores, ram) in FLAVORS.items()
            ]
        },
        "/compute/v2.1/limits": {
            "limits": {
                "rate": [],
                "absolute": {
                    "maxTotalInstances": 10,
                    "totalInstancesUsed": 0,
                    "maxTotalCores": 40,
                    "totalCoresUsed": 0,
                    "maxTotalRAMSize": 51200,
                    "totalRAMUsed": 0,
                    "maxServerGroups": 10,
                    "totalServerGroupsUsed": 0,
                },
            }
        },
        f"/volume/v3/{PROJECT}/limits": {
            "limits": {
                "rate": [],
                "absolute": {
                    "maxTotalVolumes": 10,
                    "totalVolumesUsed": 0,
                    "maxTotalVolumeGigabytes": 1000,
                    "totalGigabytesUsed": 0,
                },
            }
        },
        **{f"/compute/v2.1/flavors/{name}": {"flavor": {"id": name, "name": name}} for name in FLAVORS},
        "/image/v2/images/image": {"id": "image", "name": "debian-13-genericcloud", "status": "active"},
        "/network/v2.0/networks": {
            "networks": [{"id": "external", "name": "public", "router:external": True, "subnets": []}]
        },
        f"/network/v2.0/quotas/{PROJECT}/details": {
            "quota": {
                "floatingip": quota(50),
                "port": quota(500),
                "security_group": quota(security_groups, 1),
                "security_group_rule": quota(100, 4),
                "network": quota(10),
                "subnet": quota(10),
                "router": quota(10),
            }
        },
        "/image/v2/images": {
            "images": [
                {
                    "id": "image",
                    "name": "debian-13-genericcloud",
                    "status": "active",
                    "visibility": "public",
                    "created_at": "2026-01-01T00:00:00Z",
                    "updated_at": "2026-01-01T00:00:00Z",
                }
            ]
        },
    }


def matches(item: dict, query: dict[str, list[str]]) -> bool:
    """Whether a listed resource is what the query's parameters ask for, as far as it has them."""
    return all(str(item[name]).lower() in map(str.lower, values) for name, values in query.items() if name in item)


class Store:
    """What was made: collection (`network/v2.0/ports`) to id to the resource as the API shows it."""

    SINGULAR = {
        "networks": "network",
        "subnets": "subnet",
        "routers": "router",
        "ports": "port",
        "security-groups": "security_group",
        "security-group-rules": "security_group_rule",
        "floatingips": "floatingip",
        "servers": "server",
        "os-server-groups": "server_group",
        "volumes": "volume",
    }

    def __init__(self):
        self.made: dict[str, dict[str, dict]] = {name: {} for name in self.SINGULAR}
        self.addresses = iter(range(10, 250))

    def create(self, kind: str, body: dict) -> dict:
        """Make a resource and fill in what the service adds."""
        item = body | {"id": str(uuid.uuid4()), "project_id": PROJECT, "tenant_id": PROJECT}
        if kind not in ("servers", "os-server-groups", "volumes"):
            item |= {"status": "ACTIVE"}
        if kind == "subnets":
            item |= {"enable_dhcp": True, "gateway_ip": "10.20.0.1"}
        if kind == "ports":
            subnets = [fixed["subnet_id"] for fixed in body.get("fixed_ips", [])]
            fixed = [{"subnet_id": subnet, "ip_address": f"10.20.0.{next(self.addresses)}"} for subnet in subnets]
            item |= {"fixed_ips": fixed, "mac_address": "fa:16:3e:00:00:01", "device_id": "", "device_owner": ""}
        if kind == "security-groups":
            rules = [self.create("security-group-rules", {"security_group_id": item["id"], "direction": "egress"})]
            item |= {"security_group_rules": rules}
        if kind == "floatingips":
            item |= {
                "floating_ip_address": f"203.0.113.{next(self.addresses)}",
                "port_id": None,
                "fixed_ip_address": None,
            }
        if kind == "volumes":
            item |= {"status": "available", "attachments": [], "volume_type": "default", "bootable": "false"}
        if kind == "os-server-groups":
            item |= {"members": []}
        if kind == "servers":
            ports = [self.made["ports"][network["port"]] for network in body["networks"]]
            addresses = [
                {"addr": port["fixed_ips"][0]["ip_address"], "version": 4, "OS-EXT-IPS:type": "fixed"} for port in ports
            ]
            item |= {
                "status": "ACTIVE",
                "image": {"id": body["imageRef"]},
                "flavor": {"id": body["flavorRef"], "original_name": body["flavorRef"]},
                "addresses": {"dev": addresses},
                "OS-EXT-STS:vm_state": "active",
                "OS-EXT-AZ:availability_zone": "nova",
                "security_groups": [],
            }
            for port in ports:
                port["device_id"] = item["id"]
        self.made[kind][item["id"]] = item
        return item

    def action(self, kind: str, found: dict, what: str, body: dict) -> dict:
        """What a path below a resource does to it."""
        if what == "add_router_interface":
            port = self.create("ports", {"fixed_ips": [{"subnet_id": body["subnet_id"]}], "network_id": "router"})
            port |= {"device_id": found["id"], "device_owner": "network:router_interface"}
            return {"id": found["id"], "port_id": port["id"], "subnet_id": body["subnet_id"]}
        if what == "remove_router_interface":
            for port in [port for port in self.made["ports"].values() if port["device_id"] == found["id"]]:
                del self.made["ports"][port["id"]]
            return {"id": found["id"]}
        if what == "action" and "os-stop" in body:
            found |= {"status": "SHUTOFF", "OS-EXT-STS:vm_state": "stopped"}
        if what == "metadata":
            found["metadata"] |= body["metadata"]
        if what == "os-volume_attachments":
            volume = self.made["volumes"][body["volumeAttachment"]["volumeId"]]
            attachment = {"id": volume["id"], "volumeId": volume["id"], "serverId": found["id"], "device": "/dev/vdb"}
            volume |= {"status": "in-use", "attachments": [attachment | {"server_id": found["id"]}]}
            return {"volumeAttachment": attachment}
        return {"metadata": found.get("metadata", {})}

    def handle(self, method: str, path: str, query: dict, body: dict) -> tuple[int, dict] | None:
        """(status, answer) of a request for what was made; None when that is none of its business."""
        parts = re.fullmatch(
            rf"/(?:network/v2.0|compute/v2.1|volume/v3/{PROJECT})/([a-z-_]+)(?:/detail)?(?:/([^/]+)(?:/(.+))?)?", path
        )
        if not parts or parts[1] not in self.SINGULAR:
            return None
        kind, key, below = parts.groups()
        single = self.SINGULAR[kind]
        if key is None:
            if method == "POST":
                return 202 if kind in ("servers", "volumes") else 201, {single: self.create(kind, body[single])}
            items = [item for item in self.made[kind].values() if matches(item, query)]
            return 200, {kind.removeprefix("os-").replace("-", "_"): items}
        found = self.made[kind].get(key)
        if not found:
            return 404, {"itemNotFound": {"code": 404, "message": f"{single} {key} is not there"}}
        if below and below.startswith("os-volume_attachments/"):
            volume = self.made["volumes"].get(below.split("/")[1], {"attachments": []})
            attached = [item for item in volume["attachments"] if item["serverId"] == key]
            if method == "DELETE":
                volume |= {"status": "available", "attachments": []}
                return 202, {}
            return (
                (200, {"volumeAttachment": attached[0]})
                if attached
                else (404, {"itemNotFound": {"code": 404, "message": "no"}})
            )
        if below == "tags":
            return 200, {"tags": []}
        if below == "metadata" and method == "GET":
            return 200, {"metadata": found["metadata"]}
        if below and method == "GET":
            return None
        if below:
            return 200, self.action(kind, found, below, body)
        if method == "DELETE":
            del self.made[kind][key]
            return 204, {}
        if method == "PUT":
            found |= body[single]
        return 200, {single: found}


@contextmanager
def openstack(security_groups: int = 10):
    """Serve the stub on the loopback interface; gives its base URL, what is made, and the requests that it could not answer."""
    unanswered: list[str] = []
    store, lock = Store(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def reply(self, status: int, body: dict, **headers: str) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(text)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def body(self) -> dict:
            return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")

        def serve(self) -> None:
            url = urlsplit(self.path)
            path = url.path.removesuffix("/").removesuffix(".json")
            query, body = parse_qs(url.query), self.body()
            with lock:
                made = store.handle(self.command, path, query, body)
            known = answers(base, security_groups).get(path) if self.command == "GET" else None
            if known and query:
                known = {
                    kind: [item for item in items if matches(item, query)] if isinstance(items, list) else items
                    for kind, items in known.items()
                }
            if known and made:  # what others have made, and what we have
                return self.reply(200, {kind: items + made[1][kind] for kind, items in known.items()})
            if known or made:
                return self.reply(*(made or (200, known)))
            unanswered.append(f"{self.command} {self.path}")
            return self.reply(404, {"error": {"code": 404, "message": f"the stub has no {self.path}"}})

        do_GET = do_PUT = do_DELETE = serve

        def do_POST(self) -> None:
            if not self.path.endswith("/auth/tokens"):
                return self.serve()
            self.body()
            services = {
                "compute": "/compute/v2.1",
                "network": "/network",
                "image": "/image",
                "block-storage": f"/volume/v3/{PROJECT}",
                "volumev3": f"/volume/v3/{PROJECT}",
                "identity": "/identity/v3",
            }
            catalog = [
                {
                    "type": kind,
                    "name": kind,
                    "id": kind,
                    "endpoints": [
                        {"id": kind, "interface": "public", "region": "one", "region_id": "one", "url": base + path}
                    ],
                }
                for kind, path in services.items()
            ]
            token = {
                "methods": ["application_credential"],
                "user": {"id": "user", "name": "etl", "domain": {"id": "default", "name": "Default"}},
                "project": {"id": PROJECT, "name": "etl", "domain": {"id": "default", "name": "Default"}},
                "catalog": catalog,
                "roles": [{"id": "member", "name": "member"}],
                "issued_at": "2026-01-01T00:00:00.000000Z",
                "expires_at": "2099-01-01T00:00:00.000000Z",
            }
            return self.reply(201, {"token": token}, **{"X-Subject-Token": "stub"})

        def log_message(self, *_) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    base = f"http://127.0.0.1:{served.server_port}"
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        yield base, store.made, unanswered
    finally:
        served.shutdown()
        served.server_close()
