"""The artifact catalogue with the versions and keys that its manifests give."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import yaml
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = """
name: artifacts_catalogue
short_description: Read the artifact catalogue
description:
  - Returns one entry for each artifact of C(catalogue.yml) in the directory given, in build order.
  - An entry has name, version, key (12 hex digits over the manifests), file (of the archive), files (the manifests), directories (of
    their copies), parts (C(kind=manifest), for build.sh), data (the pattern that finds the format of what it stores in a version, or
    nothing) and needed (whether one of its groups has a host).
  - An entry whose manifests do not exist is an error that names it.
options:
  _terms:
    description: The directory of the manifests.
    required: true
"""

INSTALLER = "python/uv.txt"
OUTPUT_DIRECTORIES = {"target", "__pycache__"}


def manifest_files(root: Path, manifest: str) -> list[str]:
    """Return the files of a manifest (a file, or a directory with all below it), sorted, relative to root."""
    path = root / manifest
    found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    files = [p.relative_to(root) for p in found if p.is_file()]
    if not files:
        raise AnsibleLookupError(f"the manifest {manifest} is missing in {root}")
    return [str(p) for p in files if not OUTPUT_DIRECTORIES & set(p.parts)]


def entry(root: Path, recipe: int, name: str, declared: dict, groups: dict) -> dict:
    """Return the catalogue entry of one artifact; raise AnsibleLookupError when its version is not to be found."""
    files = [file for manifest in declared["parts"].values() for file in manifest_files(root, manifest)]
    digest = hashlib.sha256(f"{recipe}\n".encode())
    versions = []
    for file in files:
        content = (root / file).read_bytes()
        digest.update(f"{file} {hashlib.sha256(content).hexdigest()}\n".encode())
        versions += re.findall(declared["version"], content.decode(), re.MULTILINE)
    if not versions:
        raise AnsibleLookupError(
            f"no line of {name}'s manifests matches {declared['version']!r}, which is to give its version"
        )
    key = digest.hexdigest()[:12]
    if "python" in declared["parts"]:
        files.append(INSTALLER)
    return {
        "name": name,
        "version": versions[0],
        "key": key,
        "file": f"{name}-{versions[0]}-{key}.tar.zst",
        "files": files,
        "directories": sorted({f"manifests/{Path(file).parent}" for file in files}),
        "parts": [f"{kind}={manifest}" for kind, manifest in declared["parts"].items()],
        "data": declared.get("data", ""),
        "needed": any(groups.get(group) for group in declared["groups"]),
    }


class LookupModule(LookupBase):
    """Lookup of the catalogue below a directory."""

    def run(self, terms, variables=None, **kwargs):
        """Return the entries of the catalogues below the directories given."""
        entries = []
        for term in terms:
            root = Path(term)
            catalogue = yaml.safe_load((root / "catalogue.yml").read_text())
            entries += [
                entry(root, catalogue["recipe"], name, declared, variables["groups"])
                for name, declared in catalogue["artifacts"].items()
            ]
        return entries
