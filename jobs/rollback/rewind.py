"""A bucket as it was at a moment: what rollback_s3 and rollback_gcs have in common.

Every key gets the content it had then: an overwritten object is copied back from its former version, a deleted one is restored,
one that was made since is deleted. All of it as new versions on top: nothing that is there is lost, and a rewind can itself be
rewound. A bucket that is right already is left alone, so an interrupted rewind is simply run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

EXAMPLES = 20


class RewindRefused(RuntimeError):
    """Nothing was changed, and why."""


class CopyDiffers(RuntimeError):
    """A copy is not what it was made from; the source is untouched."""


@dataclass(frozen=True)
class Version:
    """One version of an object, or the mark that it was deleted at `created`. `digest` is what the store's listing tells of the
    content; equal digests of equal size are equal contents."""

    key: str
    id: str
    created: datetime
    size: int = 0
    digest: str = ""
    deleted: bool = False


class Store(Protocol):
    """One versioned bucket."""

    url: str
    batch: int  # how many keys `remove` takes at once

    def doubts(self, prefix: str, to: datetime, now: datetime) -> tuple[list[str], list[str]]:
        """(why it cannot be rewound at all, why versions of that moment may have expired)."""

    def histories(self, prefix: str) -> Iterator[list[Version]]:
        """The versions of every key, newest first, by key."""

    def same(self, one: Version, other: Version) -> bool:
        """Whether two versions of a key have the same content."""

    def copy(self, version: Version, over: Version | None) -> Version:
        """Make a version the live one again, as a copy on top of `over` (None: nothing is live); returns the copy. Raises
        CopyDiffers when the store reports another content."""

    def remove(self, versions: list[Version]) -> dict[str, str]:
        """Delete the live objects, keeping their versions; returns {key: error}."""

    def read(self, version: Version) -> Iterable[bytes]:
        """The content of a version."""


@dataclass(frozen=True)
class Action:
    """What one key needs: `then` is what it was (None: not there), `now` what it is."""

    then: Version | None
    now: Version | None

    @property
    def key(self) -> str:
        return (self.then or self.now).key

    @property
    def kind(self) -> str:
        return "removed" if self.then is None else "restored" if self.now is None else "replaced"


class Journal:
    """What a rewind found and did, a JSON line each; a rewind that is given it again goes on where it stopped."""

    def __init__(self, path: Path, header: dict[str, str]) -> None:
        self.found: list[Action] | None = None
        self.counts: dict[str, int] = {}
        done: set[str] = set()
        actions: list[Action] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+")
        self._file.seek(0)
        # A line that a crash cut off was never kept.
        text = self._file.read()
        kept = text[: text.rfind("\n") + 1]
        if text and not kept and not json.dumps({"rewind": header}).startswith(text):
            self._file.close()
            raise RewindRefused(f"{path} is no journal of a rewind: give a new file")
        for number, line in enumerate(kept.splitlines(), 1):
            entry = _parsed(line)
            if number == 1 and entry != {"rewind": header}:
                self._file.close()
                raise RewindRefused(f"{path} is not the journal of this rewind ({line[:200]}): give a new file")
            if "plan" in entry:
                actions.append(Action(*(_version(entry["plan"][name]) for name in ("then", "now"))))
            elif "planned" in entry:
                self.counts, self.found = entry["planned"], actions
            elif "done" in entry:
                done.add(entry["done"])
        if self.found is None:
            self._file.truncate(0)
            self._write({"rewind": header})
        else:
            self._file.truncate(len(kept.encode()))
            self.found = [action for action in self.found if action.key not in done]
        self._sync()

    def plan(self, actions: list[Action], counts: dict[str, int]) -> None:
        """Keep a whole plan; until it is kept, a rewind looks again."""
        for action in actions:
            self._write({"plan": asdict(action)})
        self._write({"planned": counts})
        self._sync()

    def done(self, key: str, kind: str, **more: str) -> None:
        """Keep that a key is as it was."""
        self._write({"done": key, "kind": kind} | more)
        if time.monotonic() - self._synced > 1:
            self._sync()

    def close(self) -> None:
        self._sync()
        self._file.close()

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry, default=lambda moment: moment.isoformat()) + "\n")

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def _parsed(line: str) -> dict[str, Any]:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return {"unreadable": line}


def _version(entry: dict[str, Any] | None) -> Version | None:
    return entry and Version(**entry | {"created": datetime.fromisoformat(entry["created"])})


def at(history: list[Version], moment: datetime) -> Version | None:
    """What a key was at a moment; None when it was not there."""
    found = next((version for version in history if version.created <= moment), None)
    return None if found is None or found.deleted else found


def look(
    store: Store, prefix: str, keep: tuple[str, ...], to: datetime, counts: Counter[str], keep_newer: bool = False
) -> Iterator[Action]:
    """What the keys need that are not as they were; counts objects and bytes, then and now. With `keep_newer`, keys that came since are
    left alone."""
    for history in store.histories(prefix):
        then, now = at(history, to), None if history[0].deleted else history[0]
        if (history[0].key.startswith(keep) and (now or not then)) or (keep_newer and not then):
            continue
        for name, version in (("then", then), ("now", now)):
            counts[f"objects_{name}"] += version is not None
            counts[f"bytes_{name}"] += version.size if version else 0
        if then is None and now is None:
            continue
        if then and now and (then.id == now.id or store.same(then, now)):
            continue
        yield Action(then, now)


def rewind(
    store: Store,
    to: datetime,
    *,
    prefix: str = "",
    keep: Sequence[str] = (),
    keep_newer: bool = False,
    dry_run: bool = False,
    journal: Path | None = None,
    workers: int = 16,
    by_sha256: bool = False,
    despite_expiry: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Bring every key that begins with `prefix` to what it was at `to` (an aware datetime); returns a summary for JSON. What is
    there below one of `keep` stays as it is: of those keys only the deleted ones come back. With `keep_newer` objects stay that came since.

    With `by_sha256` every copied object is read back and compared with its source by SHA-256; otherwise the store's own digests are
    compared. `despite_expiry` goes on although versions of that moment may be gone. Raises RewindRefused before anything is
    changed. The summary's `verified` tells whether a second look found everything as it was; `failed` names what could not be done.
    """
    if to.tzinfo is None:
        raise RewindRefused(f"{to} has no time zone: write 2026-11-24T22:00:00Z")
    began, now = time.monotonic(), datetime.now(UTC)
    if to > now:
        raise RewindRefused(f"{to.isoformat()} is in the future")
    reasons, expired = store.doubts(prefix, to, now)
    if reasons or (expired and not despite_expiry):
        raise RewindRefused(f"{store.url} cannot be rewound: " + "; ".join(reasons + expired))
    log = None
    if journal and not dry_run:
        log = Journal(
            journal,
            {"bucket": store.url, "prefix": prefix, "keep": ",".join(keep), "to": to.astimezone(UTC).isoformat()}
            | ({"newer": "stay"} if keep_newer else {}),
        )
    try:
        resumed = log is not None and log.found is not None
        if resumed:
            actions, counts = log.found, Counter(log.counts)
        else:
            counts = Counter()
            actions = list(look(store, prefix, tuple(keep), to, counts, keep_newer))
            if log:
                log.plan(actions, counts)
        kinds = Counter(action.kind for action in actions)
        summary: dict[str, Any] = {
            "bucket": store.url,
            "prefix": prefix,
            "keep": list(keep),
            "to": to.astimezone(UTC).isoformat(),
            "dry_run": dry_run,
            "resumed": resumed,
            "before": {"objects": counts["objects_now"], "bytes": counts["bytes_now"]},
            "then": {"objects": counts["objects_then"], "bytes": counts["bytes_then"]},
            "actions": {kind: kinds[kind] for kind in ("replaced", "restored", "removed")},
            "bytes_copied": sum(action.then.size for action in actions if action.then),
            "examples": [f"{action.kind} {action.key}" for action in actions[:EXAMPLES]],
            "warnings": expired,
        }
        if dry_run:
            return summary
        progress(f"{store.url}: {len(actions)} objects to change, {summary['bytes_copied']:,} bytes to copy")
        for again in (resumed, False):  # a kept plan may be old: what changed since is done after it
            failed = _act(store, actions, workers, by_sha256, log, progress)
            after: Counter[str] = Counter()
            actions = list(look(store, prefix, tuple(keep), to, after, keep_newer))
            if not (actions and again):
                break
        summary["after"] = {"objects": after["objects_now"], "bytes": after["bytes_now"]}
        summary["failed"] = dict(sorted(failed.items())[:EXAMPLES])
        summary["different"] = len(actions)
        summary["verified"] = not failed and not actions and after["objects_now"] == after["objects_then"]
        summary["checked_by"] = "sha256" if by_sha256 else "digest"
        summary["seconds"] = round(time.monotonic() - began, 3)
        return summary
    finally:
        if log:
            log.close()


def _act(
    store: Store,
    actions: list[Action],
    workers: int,
    by_sha256: bool,
    log: Journal | None,
    progress: Callable[[str], None],
) -> dict[str, str]:
    """Do what the plan says; returns {key: error} of what could not be done."""

    def copy(action: Action) -> dict[str, str | None]:
        try:
            made = store.copy(action.then, action.now)
            if by_sha256 and (found := sha256(store, made)) != (wanted := sha256(store, action.then)):
                raise CopyDiffers(f"SHA-256 {found}, not {wanted}")
        except Exception as error:  # of any client library; told by key, and the next key is tried
            return {action.key: f"{type(error).__name__}: {error}"}
        return {action.key: None}

    def remove(some: list[Action]) -> dict[str, str | None]:
        try:
            errors = store.remove([action.now for action in some])
        except Exception as error:
            errors = {action.key: f"{type(error).__name__}: {error}" for action in some}
        return {action.key: errors.get(action.key) for action in some}

    extra = [action for action in actions if action.then is None]
    tasks: Iterator[tuple[Callable[[Any], dict[str, str | None]], Any]] = chain(
        ((copy, action) for action in actions if action.then),
        ((remove, extra[start : start + store.batch]) for start in range(0, len(extra), store.batch)),
    )
    kinds = {action.key: action.kind for action in actions}
    failed: dict[str, str] = {}
    finished, told = 0, time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        running: set[Future] = set()
        while True:
            for work, argument in tasks:
                running.add(pool.submit(work, argument))
                if len(running) >= 4 * workers:
                    break
            if not running:
                return failed
            ready, running = wait(running, return_when=FIRST_COMPLETED)
            for key, error in chain.from_iterable(future.result().items() for future in ready):
                finished += 1
                if error:
                    failed[key] = error
                elif log:
                    log.done(key, kinds[key])
            if time.monotonic() - told > 2:
                told = time.monotonic()
                progress(f"{finished} of {len(actions)} objects, {len(failed)} failed")


def sha256(store: Store, version: Version) -> str:
    """Of a version's content, read as a whole."""
    digest = hashlib.sha256()
    for piece in store.read(version):
        digest.update(piece)
    return digest.hexdigest()


def main(argv: list[str], doc: str, open_store: Callable[[str, int], Store]) -> int:
    """The command line of both stores; returns the exit status."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--prefix", default="", help="only keys that begin with it")
    parser.add_argument(
        "--keep", action="append", default=[], metavar="PREFIX", help="only bring back what was deleted below it"
    )
    parser.add_argument("--keep-newer", action="store_true", help="leave what came since")
    parser.add_argument("--to", required=True, type=datetime.fromisoformat, metavar="TIME", help="2026-11-24T22:00:00Z")
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be done")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="keeps plan and progress; given again, it goes on")
    parser.add_argument("--sha256", action="store_true", help="read every copy back and compare it with its source")
    parser.add_argument(
        "--despite-expiry", action="store_true", help="go on although versions of that time may have expired"
    )
    parser.add_argument("--workers", type=int, default=16, metavar="N", help="requests at once (default: 16)")
    given = parser.parse_args(argv)
    try:
        summary = rewind(
            open_store(given.bucket, given.workers),
            given.to,
            prefix=given.prefix,
            keep=given.keep,
            keep_newer=given.keep_newer,
            dry_run=given.dry_run,
            journal=given.journal,
            workers=given.workers,
            by_sha256=given.sha256,
            despite_expiry=given.despite_expiry,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except RewindRefused as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    print(json.dumps(summary, indent=2))
    if summary["dry_run"] or summary["verified"]:
        return 0
    print(
        f"{len(summary['failed'])} or more failed, {summary['different']} are not as they were: somebody writes there, or see"
        " `failed`; run it again",
        file=sys.stderr,
    )
    return 1
