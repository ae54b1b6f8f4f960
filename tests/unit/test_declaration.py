"""Declarations are checked before anything is made of them, and the message leads to the line."""

import pytest

from jobs.declaration import PIPELINES, DeclarationError, Retention, load, load_all

FLIGHTS = (PIPELINES / "flights.yml").read_text()


@pytest.fixture
def declare(tmp_path):
    """Write a declaration that differs from the flights' and return its directory."""

    def write(*changes: tuple[str, str], name: str = "flights"):
        text = FLIGHTS
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        (tmp_path / f"{name}.yml").write_text(text)
        return tmp_path

    return write


def line_of(directory, text: str, name: str = "flights") -> int:
    lines = (directory / f"{name}.yml").read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def test_two_pipelines_with_one_port_are_refused(declare):
    directory = declare()
    declare(("pipeline: flights", "pipeline: orders"), name="orders")
    line = line_of(directory, "port: 9443", "orders")
    with pytest.raises(DeclarationError, match=rf"orders.yml:{line}: port: 9443 is that of the pipeline flights"):
        load_all(directory)
    declare(("pipeline: flights", "pipeline: orders"), ("port: 9443", "port: 9444"), name="orders")
    assert [declaration.port for declaration in load_all(directory)] == [9443, 9444]


def test_a_table_from_no_source_is_refused(declare):
    directory = declare(("from: airlines", "from: airline"))
    line = line_of(directory, "from: airline,")
    with pytest.raises(
        DeclarationError, match=rf"flights.yml:{line}: publish.dim_airline.from: there is no source airline;"
    ):
        load("flights", directory)


def test_retention_has_defaults_of_its_own(declare):
    assert load("flights", declare()).retention == Retention()
    retention = load("flights", declare(("audits:", "retention: {raw: 30}\n\naudits:"))).retention
    assert retention == Retention(raw=30)
