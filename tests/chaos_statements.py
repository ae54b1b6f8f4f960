"""Kills the process that is about to make a given step of its database work: `sitecustomize` of a scheduler under test.

The file that ETL_CHAOS names has {"from", "count", "step"}: counted are, from the first statement that matches `from`, those that match
`count`. A write into a COPY counts as "write", BEGIN, SAVEPOINT and COMMIT as they are. The file is renamed before the process
dies, so that only one does.
"""

import json
import os
import re
import signal

PLAN = os.environ.get("ETL_CHAOS", "")
counted = None


def step(statement: str) -> None:
    global counted
    if not os.path.exists(PLAN):
        return
    with open(PLAN) as file:
        plan = json.load(file)
    if counted is None and re.match(plan["from"], statement):
        counted = 0
    if counted is None or not re.match(plan["count"], statement):
        return
    counted += 1
    if counted == plan["step"]:
        os.rename(PLAN, PLAN + ".done")
        os.kill(os.getpid(), signal.SIGKILL)


def counting(psycopg) -> None:
    def text(query, connection) -> str:
        if isinstance(query, bytes):
            return query.decode()
        return query if isinstance(query, str) else query.as_string(connection)

    def wrap(owner, name, statement) -> None:
        plain = getattr(owner, name)

        def counted(self, *args, **kwargs):
            step(statement(self, *args).strip())
            return plain(self, *args, **kwargs)

        setattr(owner, name, counted)

    for name in ("execute", "executemany", "copy"):
        wrap(psycopg.Cursor, name, lambda self, query, *_: text(query, self.connection))
    wrap(psycopg.Copy, "write", lambda *_: "write")
    wrap(psycopg.Connection, "_exec_command", lambda self, command, *_: text(command, self))


if PLAN:
    try:
        import psycopg
    except ImportError:  # a Python that has none, such as Spark's
        pass
    else:
        counting(psycopg)
