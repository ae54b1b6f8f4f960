"""Prints what taking data back costs, on a throw-away PostgreSQL and MinIO of this machine. Asserts nothing.

    python benchmarks/rollback.py [--rows 10000 100000 1000000] [--objects 2000] [--bytes 16384]

undo     seconds of publish.undo, and of the swap once the lock is held, by rows of the partition: neither should grow with them
rewind   objects per second of a rewind, against a plain listing of all versions and a copy of each object on the same store, in the
         same run, with as many requests at once: the ratio is the share of that limit
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/unit/load")]

from warehouse_kit import Server  # noqa: E402

from jobs.load import ledger, migrate, publish  # noqa: E402
from jobs.rollback.rewind import rewind  # noqa: E402
from jobs.rollback.rollback_s3 import S3Store  # noqa: E402
from tests import stores  # noqa: E402

WORKERS = 16
FILL = """
insert into {relation} (
    flight_id, flight_date, scheduled_departure, carrier, flight_number, origin, dest, distance_miles, cancelled, diverted,
    plane_known, dest_known, run_id, release
)
select n, date '2013-01-01' + n % 31, now(), 'UA', 1, 'JFK', 'LAX', 1, false, false, true, true, '{run_id}', 'r'
from generate_series(1, {rows}) as n
"""


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call took."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def undo(sizes: list[int]) -> None:
    """A month published twice with so many rows, and the second publication taken back."""
    print("\nrows of the partition   undo, s   swap under the lock, s")
    with tempfile.TemporaryDirectory(
        prefix="etl-pg-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    ) as place:
        server = Server(Path(place))
        server.start()
        try:
            with server.connect("postgres", "postgres") as conn:
                for role in ("etl_owner", "etl_load", "etl_read"):
                    conn.execute(f"create role {role} login")
            for rows in sizes:
                database = server.database()
                with server.connect(database, "etl_owner") as conn:
                    migrate.up(conn)
                with server.connect(database, "etl_load", autocommit=False) as conn:
                    for run_id in ("first", "second"):
                        _publish(conn, run_id, rows)
                    held: list[float] = []
                    holding = publish._holding

                    def measured(conn, names, mode, patience, sleep, work=lambda: None, holding=holding, held=held):
                        holding(conn, names, mode, patience, sleep, lambda: held.append(timed(work)))

                    publish._holding = measured
                    seconds = timed(lambda conn=conn: publish.undo(conn, "second"))
                    publish._holding = holding
                print(f"{rows:21,} {seconds:9.3f} {max(held):24.3f}")
        finally:
            server.stop()


def _publish(conn, run_id: str, rows: int) -> None:
    ledger.start_run(conn, ledger.Run(run_id, run_id, "flights", "r", 1, "2013-01-01", "2013-02-01"))
    with conn.transaction():
        version, relation = conn.execute(
            "select version_id, relation from etl.build_partition("
            "'fact_flight', 'fact_flight_201301', '2013-01-01', '2013-02-01', %s, 1)",
            (run_id,),
        ).fetchone()
        conn.execute(FILL.format(relation=relation, run_id=run_id, rows=rows))
        conn.execute("select etl.seal_partition(%s)", (version,))
        publication = conn.execute(
            "insert into etl.publication (run_id, attempt) values (%s, 1) returning publication_id", (run_id,)
        ).fetchone()[0]
        conn.execute("select etl.publish_partition(%s, %s)", (version, publication))


def objects(count: int, size: int) -> None:
    """A bucket of which every object was overwritten, rewound; and the same requests without anything around them."""
    with stores.minio() as url, ThreadPoolExecutor(WORKERS) as pool:
        client = stores.client(url, max_pool_connections=2 * WORKERS)
        keys = [f"part-{number:06d}" for number in range(count)]
        for bucket in ("limit", "rewound"):
            client.create_bucket(Bucket=bucket)
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})

        def fill(bucket: str) -> None:
            list(pool.map(lambda key: client.put_object(Bucket=bucket, Key=key, Body=os.urandom(size)), keys))

        fill("limit")
        fill("limit")
        fill("rewound")
        time.sleep(0.01)
        then = datetime.now(UTC)
        time.sleep(0.01)
        fill("rewound")

        def limit() -> None:
            pages = client.get_paginator("list_object_versions").paginate(Bucket="limit")
            old = [entry for page in pages for entry in page["Versions"] if not entry["IsLatest"]]
            list(pool.map(copy, old))

        def copy(entry: dict) -> None:
            source = {"Bucket": "limit", "Key": entry["Key"], "VersionId": entry["VersionId"]}
            client.copy_object(Bucket="limit", Key=entry["Key"], CopySource=source)

        least = timed(limit)
        found: list[dict] = []
        took = timed(lambda: found.append(rewind(S3Store(client, "rewound", WORKERS), then, workers=WORKERS)))
        dry = timed(lambda: rewind(S3Store(client, "rewound", WORKERS), then, dry_run=True))
    print(f"\n{count:,} objects of {size:,} bytes, all overwritten          seconds    objects/s")
    print(f"list and copy, the store's limit              {least:12.2f} {count / least:12,.0f}")
    print(
        f"rewind, checked by a second listing           {took:12.2f} {count / took:12,.0f}   {least / took:.2f} of the limit"
    )
    print(f"a dry run                                     {dry:12.2f} {count / dry:12,.0f}")
    if not found[0]["verified"]:
        print(f"the rewind failed: {found[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--bytes", type=int, default=16384)
    given = parser.parse_args()
    undo(given.rows)
    objects(given.objects, given.bytes)


if __name__ == "__main__":
    main()
