"""Every decision, in a file that shows when it was changed."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

log = logging.getLogger("rollback_notifier")


class AuditLog:
    """An append-only file of JSON lines; each line carries the hash of the one before it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # cut off by a crash: what it told has not happened
            os.truncate(path, len(whole.encode()))
        self._last = digest(whole.splitlines()[-1]) if whole else ""

    def write(self, event: str, **more: Any) -> None:
        """Add a line; it is on disk when the call returns."""
        line = json.dumps(
            {"at": datetime.now(UTC).isoformat(), "event": event, **more, "after": self._last}, default=str
        )
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            size, text = os.fstat(handle).st_size, line.encode() + b"\n"
            if os.write(handle, text) < len(text):
                os.ftruncate(handle, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            os.fsync(handle)
        finally:
            os.close(handle)
        self._last = digest(line)
        log.info("%s %s", event, " ".join(f"{name}={value}" for name, value in more.items() if name != "plan"))

    @staticmethod
    def check(path: Path) -> list[int]:
        """Numbers of the lines that do not follow from the line before: something was changed or taken out there."""
        wrong, last = [], ""
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                follows = json.loads(line)["after"] == last
            except (ValueError, KeyError, TypeError):
                follows = False
            if not follows:
                wrong.append(number)
            last = digest(line)
        return wrong


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
