"""An export that is made once, for each version of what it is made of."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def kept(cache: Path, script: str, package: str, export: Callable[[Path], dict], *options: str) -> dict:
    """The manifest of the export with `directory`, where it is, and `fresh`, whether it was made just now.

    It is kept in `cache` by the version of the package, the options and the content of the script. `export` fills a directory and
    returns its manifest; a directory is there with all its files or not at all.
    """
    content = hashlib.sha256(Path(script).read_bytes()).hexdigest()[:8]
    cache = cache.expanduser()
    directory = cache / "-".join((package, importlib.metadata.version(package), *options, content))
    manifest_file = directory / "manifest.json"
    fresh = not manifest_file.exists()
    if fresh:
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".export-", dir=cache))
        try:
            (unfinished / manifest_file.name).write_text(json.dumps(export(unfinished), indent=1) + "\n")
            unfinished.rename(directory)
        except BaseException:
            shutil.rmtree(unfinished)
            raise
    return {"directory": str(directory), "fresh": fresh, **json.loads(manifest_file.read_text())}
