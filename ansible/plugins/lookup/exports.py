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
  - With any other term (ports, clients, metrics, units, backups), a dictionary by role.
options:
  _terms: {description: Sections to read, required: true}
"""

SECTIONS = ("ports", "clients", "metrics", "units", "backups", "secrets")
ROLES = Path(__file__).resolve().parents[3] / "roles"


def read_exports(roles: Path = ROLES) -> dict[str, dict]:
    """Return {role: exports} for every role under `roles` that declares any."""
    return {path.parts[-3]: yaml.safe_load(path.read_text()) for path in sorted(roles.glob("*/meta/exports.yml"))}


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        exports = read_exports()
        answers = []
        for term in terms:
            if term not in SECTIONS:
                raise AnsibleLookupError(f"exports: '{term}' is not one of {', '.join(SECTIONS)}")
            by_role = {role: declared.get(term) or {} for role, declared in exports.items()}
            if term == "secrets":
                answers.append({name: spec for declared in by_role.values() for name, spec in declared.items()})
            else:
                answers.append(by_role)
        return answers
