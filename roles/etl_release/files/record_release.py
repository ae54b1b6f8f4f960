"""Enter release argv[1] of commit argv[2] in the ledger, as libpq's environment says; prints `recorded` when it was new."""

import sys

import psycopg

ENTER = """
    insert into etl.release as r (release, commit) values (%s, %s)
    on conflict (release) do update set commit = excluded.commit where r.commit is distinct from excluded.commit
"""

with psycopg.connect("") as connection:
    print("recorded" if connection.execute(ENTER, sys.argv[1:3]).rowcount else "known")
