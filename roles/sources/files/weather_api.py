"""A weather service: hourly observations as pages of JSON over HTTPS, for whoever has the token.

    GET /v1/observations?from=2013-01-01T05:00:00Z&to=2013-02-01T05:00:00Z&page=1&per_page=1000

answers {"total": rows in [from, to), "page", "per_page", "observations": [...]}, ordered by hour and airport. 400 says which
parameter is wrong, 401 that the token is. `--faults` names a file with lines `FAULT COUNT` (500, 429, half, broken, short, endless):
what the next requests meet, so that a test can see how a client takes it.
"""

from __future__ import annotations

import argparse
import bisect
import hmac
import json
import re
import ssl
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z")
MOST = 10_000  # rows of a page
PATH = "/v1/observations"


class BadRequest(ValueError):
    """A parameter is missing or malformed; the message names it."""


class Observations:
    """All observations, in order; each is a mapping with `time_hour` (UTC, ISO)."""

    def __init__(self, rows: list[dict]):
        self.rows = sorted(rows, key=lambda row: (row["time_hour"], row["origin"]))
        self.hours = [row["time_hour"] for row in self.rows]

    def page(self, start: str, end: str, number: int, size: int) -> dict:
        """One page of the rows in [start, end), counted from 1."""
        first, last = bisect.bisect_left(self.hours, start), bisect.bisect_left(self.hours, end)
        offset = first + (number - 1) * size
        rows = self.rows[offset : min(offset + size, last)] if offset < last else []
        return {"total": max(last - first, 0), "page": number, "per_page": size, "observations": rows}


class Faults:
    """What the next requests meet: lines `FAULT COUNT` of a file, used up in order, anew when the file changes."""

    def __init__(self, path: Path | None):
        self.path, self.stamp, self.left = path, None, []

    def next(self) -> str | None:
        """The fault of this request, None when it meets none."""
        stamp = self.path.stat().st_mtime_ns if self.path and self.path.exists() else None
        if stamp != self.stamp:
            lines = [line.split() for line in self.path.read_text().splitlines()] if stamp else []
            self.stamp, self.left = stamp, [name for name, count in lines for _ in range(int(count))]
        return self.left.pop(0) if self.left else None


def asked(query: str) -> tuple[str, str, int, int]:
    """(from, to, page, per_page) of a query string. Raises BadRequest."""
    given = {name: values[-1] for name, values in parse_qs(query).items()}
    for name in ("from", "to"):
        if not MOMENT.fullmatch(given.get(name, "")):
            raise BadRequest(f"{name} must be a moment in UTC like 2013-01-31T05:00:00Z")
    numbers = []
    for name, default, most in (("page", "1", 10**9), ("per_page", "1000", MOST)):
        value = given.get(name, default)
        if not value.isdecimal() or not 1 <= int(value) <= most:
            raise BadRequest(f"{name} must be a number from 1 to {most}")
        numbers.append(int(value))
    return given["from"], given["to"], *numbers


class Server(ThreadingHTTPServer):
    """Serves observations over TLS; a slow handshake holds up nobody else."""

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], context: ssl.SSLContext, token: str, rows: list[dict], faults: Path | None
    ):
        super().__init__(address, Handler)
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.token, self.observations, self.faults = token, Observations(rows), Faults(faults)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not hmac.compare_digest(self.headers.get("Authorization", ""), f"Bearer {self.server.token}"):
            self.answer(401, {"error": "this needs Authorization: Bearer <token>"})
        elif url.path != PATH:
            self.answer(404, {"error": f"there is {PATH} only"})
        else:
            try:
                page = self.server.observations.page(*asked(url.query))
            except BadRequest as error:
                self.answer(400, {"error": str(error)})
            else:
                self.answer_with(self.server.faults.next(), page)

    def answer_with(self, fault: str | None, page: dict) -> None:
        """The page, or what the fault makes of it."""
        if fault in ("500", "429"):
            self.answer(int(fault), {"error": "out of order" if fault == "500" else "too many requests"})
            return
        if fault == "endless":
            page |= {"total": 10**9, "observations": self.server.observations.rows[: page["per_page"]]}
        if fault == "short":
            page["observations"] = page["observations"][:-1]
        content = json.dumps(page).encode()
        if fault == "broken":
            content = content[: len(content) // 2]
        self.send(200, content, cut=fault == "half")

    def answer(self, status: int, document: dict) -> None:
        """A small document."""
        self.send(status, json.dumps(document).encode())

    def send(self, status: int, content: bytes, cut: bool = False) -> None:
        """The response; `cut`: the connection ends in the middle of it."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    def log_message(self, form: str, *values: object) -> None:
        print(f"{datetime.now(UTC):%H:%M:%S} {self.client_address[0]} {form % values}", flush=True)


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="JSON array of observations")
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--faults", type=Path)
    given = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(given.certificate, given.key)
    rows = json.loads(given.data.read_text())
    Server(("", given.port), context, given.token_file.read_text().strip(), rows, given.faults).serve_forever()


if __name__ == "__main__":
    main()
