"""The few answers of an OpenStack that a plan needs: a token, and what there is of networks, images, flavors and quotas."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

PROJECT = "0123456789abcdef0123456789abcdef"
FLAVORS = {"m1.small": (1, 2048), "m1.medium": (2, 4096), "m1.large": (4, 8192), "m1.xlarge": (8, 16384)}


def quota(limit: int, used: int = 0) -> dict:
    return {"limit": limit, "used": used, "reserved": 0}


def answers(base: str) -> dict[str, dict]:
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
        "/network/v2.0/networks": {
            "networks": [{"id": "external", "name": "public", "router:external": True, "subnets": []}]
        },
        f"/network/v2.0/quotas/{PROJECT}/details": {
            "quota": {
                "floatingip": quota(50),
                "port": quota(500),
                "security_group": quota(10, 1),
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


@contextmanager
def openstack():
    """Serve the stub on the loopback interface; gives its base URL and the requests that it could not answer."""
    unanswered: list[str] = []

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

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            body = answers(base).get(url.path.removesuffix("/").removesuffix(".json"))
            if body is None:
                unanswered.append(self.path)
                return self.reply(404, {"error": {"code": 404, "message": f"the stub has no {self.path}"}})
            wanted = parse_qs(url.query).get("name")
            if wanted:
                body = {kind: [item for item in items if item["name"] in wanted] for kind, items in body.items()}
            return self.reply(200, body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
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
            self.reply(201, {"token": token}, **{"X-Subject-Token": "stub"})

        def log_message(self, *_) -> None:
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    base = f"http://127.0.0.1:{served.server_port}"
    threading.Thread(target=served.serve_forever, daemon=True).start()
    try:
        yield base, unanswered
    finally:
        served.shutdown()
        served.server_close()
