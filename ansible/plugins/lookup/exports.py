"""Lookup: what the roles declare in meta/exports.yml."""

from __future__ import annotations

from pathlib import Path

import yaml
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: exports
short_description: Read roles/*/meta/exports.yml
description:
  - With the term C(secrets), one dictionary of all roles' secrets.
  - With the term C(inbound), a list of what listens, where and for whom, over all roles.
  - With any other term (ports, clients, metrics, units, backups), a dictionary by role.
options:
  _terms: {description: Sections to read, required: true}
"""

SECTIONS = ("ports", "clients", "metrics", "units", "backups", "secrets")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's reads six times as fast: many templates ask
ROLES = Path(__file__).resolve().parents[3] / "roles"


def read_exports(roles: Path = ROLES) -> dict[str, dict]:
    """Return {role: exports} for every role under `roles` that declares any."""
    return {path.parts[-3]: yaml.load(path.read_text(), LOADER) for path in sorted(roles.glob("*/meta/exports.yml"))}


def inbound(exports: dict[str, dict], groups: dict[str, list[str]]) -> list[dict]:
    """Return what listens, where and for whom, as terraform/modules/network reads it too, ordered by role and port:
    {name: <role>_<port>, role, port, first: number, span: how many further numbers, clients: sorted groups,
    hosts: those of the group in `served_by`, else of the first one that the inventory knows of the groups <role>_<port>,
    <role>_<the port's first word> (spark's master_ui: spark_master) and <role>}."""
    found = []
    for role, declared in sorted(exports.items()):
        for port, first in sorted(declared["ports"].items()):
            clients = {*declared["clients"].get(port, []), "blackbox_exporter"}
            if port in declared["metrics"]:
                clients.add("prometheus")
            own = [f"{role}_{port}", f"{role}_{port.split('_')[0]}", role]
            serving = [declared["served_by"][port]] if port in declared.get("served_by", {}) else own
            found.append(
                {
                    "name": f"{role}_{port}",
                    "role": role,
                    "port": port,
                    "first": first,
                    "span": declared.get("spans", {}).get(port, 0),
                    "clients": sorted(clients),
                    "hosts": next((groups[name] for name in serving if name in groups), []),
                }
            )
    return found


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        exports = read_exports()
        answers = []
        for term in terms:
            if term == "inbound":
                answers.append(inbound(exports, variables["groups"]))
                continue
            if term not in SECTIONS:
                raise AnsibleLookupError(f"exports: '{term}' is not one of {', '.join([*SECTIONS, 'inbound'])}")
            by_role = {role: declared.get(term) or {} for role, declared in exports.items()}
            if term == "secrets":
                answers.append({name: spec for declared in by_role.values() for name, spec in declared.items()})
            else:
                answers.append(by_role)
        return answers
