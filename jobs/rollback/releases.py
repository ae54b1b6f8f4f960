"""The releases of an environment, on the command line of the release host.

    python -m jobs.rollback.releases record      (facts of a deployment as JSON on stdin)
    python -m jobs.rollback.releases mark RELEASE bad --because rollback --reason TEXT
    python -m jobs.rollback.releases begin RELEASE [--force] BUCKET...
    python -m jobs.rollback.releases list | compare A B | surplus DIRECTORY RELEASE

Connects with boto3's and libpq's own environment (AWS_*, PG*); the bucket of manifests is RELEASES_BUCKET. Prints JSON, or text for
people (list, compare).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.rollback import manifests
from jobs.rollback.release_text import comparison, listing
from jobs.rollback.release_tree import ReleaseError, describe, packed, surplus, tree_digest


def record(kept: manifests.Store, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest of the deployment in `facts` unless the newest one tells the same; enter all in the ledger."""
    import psycopg

    tree = Path(facts["tree"])
    manifest = manifests.build(tree, facts)
    present = kept.latest(manifest["release"])
    changed = not manifests.same(present, manifest)
    if changed:
        kept.put(f"{manifest['release']}/tree-{tree_digest(tree)[:12]}.tar.gz", packed(tree))
        present = kept.add(manifest)
    with psycopg.connect("") as connection:
        manifests.enter(connection, manifests.newest(kept.manifests()).values())
    return {"changed": changed, "release": present["release"], "serial": present["serial"], "state": present["state"]}


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jobs.rollback.releases", description="Manifests of the releases.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("record", help="write the manifest of a deployment (facts as JSON on stdin)")
    marking = verbs.add_parser("mark", help="give a release a state")
    marking.add_argument("release")
    marking.add_argument("state", choices=manifests.STATES)
    marking.add_argument("--because", choices=manifests.BECAUSE, required=True)
    marking.add_argument("--reason", required=True)
    beginning = verbs.add_parser(
        "begin",
        help="fail when a release may not be deployed; print its next serial, the moment, whether its manifest says it serves",
    )
    beginning.add_argument("release")
    beginning.add_argument("buckets", nargs="*")
    beginning.add_argument("--force", action="store_true", help="although it was taken back")
    verbs.add_parser("list", help="the releases, for people").add_argument("--current")
    comparing = verbs.add_parser("compare", help="what differs between two, for people")
    comparing.add_argument("one")
    comparing.add_argument("other")
    beyond = verbs.add_parser("surplus", help="flows and units that other releases own and this one does not")
    beyond.add_argument("directory", type=Path)
    beyond.add_argument("release")
    arguments = parser.parse_args(argv)
    try:
        print(_run(arguments, manifests.store()))
    except (ReleaseError, OSError) as error:
        print(f"releases: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace, kept: manifests.Store) -> str:
    match arguments.verb:
        case "record":
            return json.dumps(record(kept, json.load(sys.stdin)))
        case "mark":
            import psycopg

            manifest = manifests.mark(kept, arguments.release, arguments.state, arguments.because, arguments.reason)
            with psycopg.connect("") as connection:
                manifests.enter(connection, [manifest])
            return json.dumps({key: manifest[key] for key in ("release", "serial", "state", "reason")})
        case "begin":
            describe(Path.cwd())
            present = kept.latest(arguments.release)
            manifests.require_deployable(present, arguments.force)
            serial = (present["serial"] if present else 0) + 1
            since = manifests.moment(kept.s3, kept.bucket, arguments.buckets)
            recorded = manifests.serving(kept.manifests()) == arguments.release
            return json.dumps({"serial": serial, "since": since, "recorded": recorded})
        case "list":
            return listing(kept.manifests(), arguments.current)
        case "compare":
            known = manifests.newest(kept.manifests())
            missing = [name for name in (arguments.one, arguments.other) if name not in known]
            if missing:
                raise ReleaseError(f"unknown: {', '.join(missing)}. Known are {', '.join(known) or 'none'}")
            return comparison(known[arguments.one], known[arguments.other])
        case "surplus":
            return json.dumps(
                surplus(arguments.directory, arguments.release, manifests.newest(kept.manifests()).values())
            )
    raise AssertionError(arguments.verb)


if __name__ == "__main__":
    sys.exit(main())
