"""The command line: the service, and what a person asks of it (`etl-approve`)."""

from __future__ import annotations

import argparse
import os
import ssl
import sys
from pathlib import Path
from typing import Any

import httpx

from .audit_log import AuditLog
from .policy import Settings, read
from .service import serve

CONFIG = Path("/etc/rollback_notifier/config.yml")
PROGRAM = "etl-approve"


def ask(settings: Settings, given: argparse.Namespace) -> int:
    """Ask the service what the verb says and print its answer; returns the exit status."""
    client = httpx.Client(
        base_url=settings.url,
        verify=ssl.create_default_context(cafile=str(settings.ca)),
        headers={"Authorization": f"Bearer {settings.approval_token.read_text().strip()}"},
        timeout=30,
    )
    if given.verb == "list":
        for each in client.get("/incidents").raise_for_status().json():
            target = _short(each["target"])
            print(f"{each['id']:>4}  {each['status']:<10} {each['changed_at'][:19]}  {each['rule']}  {target}")
        return 0
    answer = client.get(f"/incidents/{given.id}")
    if given.verb != "show" and answer.is_success:
        # who rejects need not have seen the plan; who approves must name it
        digest = given.digest if given.verb == "approve" else answer.json()["digest"]
        body = {"by": given.by, "digest": digest, "reason": given.reason}
        answer = client.post(f"/incidents/{given.id}/{given.verb}", json=body)
    if not answer.is_success:
        print(f"{PROGRAM}: {answer.json().get('detail', answer.text)}", file=sys.stderr)
        return 1
    _show(answer.json())
    return 0


def audit(path: Path) -> int:
    """Print the audit log; the exit status is 1 when something was changed in it."""
    if not path.exists():
        return 0
    print(path.read_text(), end="")
    wrong = AuditLog.check(path)
    if wrong:
        print(f"{PROGRAM}: the log was changed before line {', '.join(map(str, wrong))}", file=sys.stderr)
    return bool(wrong)


def _show(incident: dict[str, Any]) -> None:
    note = f" – {incident['note']}" if incident["note"] else ""
    print(f"Incident {incident['id']} ({incident['rule']}): {incident['status']}{note}")
    print(_short(incident["target"]), incident["link"] or "", "", sep="\n")
    if incident["plan"]:
        print(incident["plan"]["text"], "", sep="\n")
    if incident["status"] == "waiting":
        print(f"To approve this plan: {PROGRAM} approve {incident['id']} --digest {incident['digest']}")


def _short(target: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in target.items() if value)


def main(argv: list[str]) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Proposals to take data or a release back.")
    parser.add_argument("--config", type=Path, default=CONFIG)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, help_text in (
        ("serve", "run the service"),
        ("check", "read the configuration and say what is wrong with it"),
        ("list", "every incident"),
        ("show", "one incident and its plan"),
        ("approve", "let an undo go on"),
        ("reject", "close an incident, nothing is done"),
        ("audit", "print the audit log and check that nothing was changed in it"),
    ):
        command = verbs.add_parser(verb, help=help_text)
        if verb in ("show", "approve", "reject"):
            command.add_argument("id", type=int)
        if verb in ("approve", "reject"):
            command.add_argument("--by", default=os.environ.get("SUDO_USER") or os.environ.get("USER") or "unknown")
            command.add_argument("--reason")
        if verb == "approve":
            command.add_argument("--digest", required=True, help="of the plan, as `show` prints it")
    given = parser.parse_args(argv)
    try:
        settings = read(given.config, Settings)
        match given.verb:
            case "serve":
                serve(settings)
            case "audit":
                return audit(settings.audit_log)
            case "list" | "show" | "approve" | "reject":
                return ask(settings, given)
        return 0
    except (OSError, ValueError, httpx.HTTPError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
