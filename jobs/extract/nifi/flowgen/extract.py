"""The extract flow of one pipeline: a request comes in, raw objects and one manifest (or one failure record) come out.

    listen ─ caller? ─ read ─ describe ─ accepted? ─ answer 202 ─ which dataset? ┬ query ──────────┬ sha256 ─ name part ─ put part
               │                            │                                    ├ files ─ fetch ──┤                        │
              403                      400 + reason                              └ page ─ next? ───┘                        │
                                       200 + a directory's files                    manifest ◄─ put ◄─ merge ◄─ part record ┘

Every failure after the 202 ends in one `_failure.json` with stage and reason; the first failure of a request stands.
A flow keeps nothing between requests: run, attempt and bounds come with each of them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from jobs.declaration import Declaration
from jobs.extract.nifi.flowgen import output
from jobs.extract.nifi.flowgen.blocks import Blocks
from jobs.extract.nifi.flowgen.entry import entry
from jobs.extract.nifi.flowgen.sources import KINDS


def build(declaration: Declaration) -> dict[str, Any]:
    """The definition of a pipeline's flow as NiFi imports it; its version, the hash of all the rest, goes to every manifest."""
    unversioned = json.dumps(_definition(declaration, ""), sort_keys=True)
    return _definition(declaration, hashlib.sha256(unversioned.encode()).hexdigest()[:12])


def _definition(declaration: Declaration, version: str) -> dict[str, Any]:
    blocks = Blocks(declaration, version)
    blocks.failure = output.failure(blocks)
    parts = output.parts(blocks)
    choice = entry(blocks)
    for column, source in enumerate(declaration.sources.values()):
        KINDS[source.kind](blocks, source, column, choice, parts)
    return blocks.flow.definition(f"{declaration.description} Flow version {version}.")
