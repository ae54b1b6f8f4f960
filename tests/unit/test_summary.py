"""The text that a person reads at the end of a run."""

from decimal import Decimal

from jobs.load.summary import table


def test_numbers_go_right_with_separators_and_text_left():
    text = table(
        "Rows", ("name", "rows", "mean"), [("a", 12345, Decimal("1.5")), ("long name", None, Decimal("-20.0"))]
    )
    assert text.splitlines() == [
        "Rows",
        "  name         rows   mean",
        "  a          12,345    1.5",
        "  long name       -  -20.0",
    ]


def test_nothing_is_said_to_be_nothing():
    assert table("Rejected rows", ("rule", "rows"), []) == "Rejected rows: none"
