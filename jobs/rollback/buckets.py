"""The buckets of data, with the rights of the rollback's user."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any


def object_store() -> Any:
    """A client with the rights of the rollback's user, who writes to every bucket of data."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        aws_access_key_id=os.environ["ROLLBACK_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["ROLLBACK_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=16),
    )


def rewound(bucket: str, to: str, *, dry_run: bool = False, journal: Path | None = None) -> dict[str, Any]:
    """The summary of a bucket's way back to a moment: what was overwritten or deleted is as it was then.

    What came since stays: a run writes under prefixes of its own, and of those that stay published, or that retention has compacted,
    the newer objects are all there is. The journal of publications stays too, it tells what was published when.
    """
    from jobs.load.journal import PREFIX
    from jobs.rollback.rewind import rewind
    from jobs.rollback.rollback_s3 import S3Store

    moment = datetime.fromisoformat(to)
    return rewind(
        S3Store(object_store(), bucket), moment, keep=(PREFIX,), keep_newer=True, dry_run=dry_run, journal=journal
    )
