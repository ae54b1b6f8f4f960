"""Artifacts that an environment would take back to a version that cannot read what the present one has stored."""

from __future__ import annotations

import re

from ansible.module_utils.compat.version import LooseVersion


def artifacts_downgrades(needed: list[dict], lock: dict[str, dict]) -> list[str]:
    """Return a sentence for each entry of the catalogue that is older than the one locked and has another format of its data.

    `data` of an entry is a pattern: what it finds in a version names the format. Without one the artifact stores nothing.
    """
    found = []
    for entry in needed:
        there = lock.get(entry["name"], {}).get("version", entry["version"])
        if entry["data"] and LooseVersion(entry["version"]) < LooseVersion(there):
            now, then = (re.search(entry["data"], version) for version in (entry["version"], there))
            if now is None or then is None or now.group() != then.group():
                found.append(f"{entry['name']} {entry['version']} is older than {there}, which this environment runs")
    return found


class FilterModule:
    """The filters of this file."""

    def filters(self):
        """Return them by name."""
        return {"artifacts_downgrades": artifacts_downgrades}
