"""A throw-away server for the session, and a warehouse in it for every test."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from warehouse_kit import Server, Warehouse

from jobs.load import migrate


@pytest.fixture(scope="session")
def server():
    """A running server with the roles of the warehouse."""
    # Not pytest's directory: another user must be able to enter it, and a socket's path is short.
    # In memory where there is a place for it: a database is made for every test.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"
    with tempfile.TemporaryDirectory(prefix="etl-pg-", dir=place) as directory:
        server = Server(Path(directory))
        server.start()
        try:
            with server.connect("postgres", "postgres") as conn:
                for role in ("etl_owner", "etl_load", "etl_read"):
                    conn.execute(f"create role {role} login")
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def migrated(server) -> str:
    """Name of a database at the newest level; tests copy it."""
    name = server.database()
    with server.connect(name, "etl_owner") as conn:
        migrate.up(conn)
    return name


@pytest.fixture
def empty(server):
    """etl_owner's connection to an empty database."""
    with server.connect(server.database(), "etl_owner") as conn:
        yield conn


@pytest.fixture
def warehouse(server, migrated) -> Warehouse:
    """A migrated warehouse with a lake of curated Parquet beside it."""
    warehouse = Warehouse(server, server.database(migrated))
    yield warehouse
    warehouse.close()


@pytest.fixture
def moments(server, warehouse):
    """Takes the warehouse back as a restore does: to a copy of its database that was made before. The lake goes on."""
    made = []

    class Moment:
        def __init__(self) -> None:
            warehouse.conn.close()
            self.name = server.database(warehouse.database)
            warehouse.conn = warehouse.connect("etl_load", autocommit=False)

        def restored(self) -> Warehouse:
            back = Warehouse(server, self.name)
            back.lake = warehouse.lake
            made.append(back)
            return back

    yield Moment
    for back in made:
        back.close()
