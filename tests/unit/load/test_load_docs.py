"""Every query that the documentation shows is one that etl_read can ask of the warehouse at its newest level."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PSQL = re.compile(r"""make psql ARGS="-c (?:'(.*?)'"|\\"(.*?)\\"")""")


def queries() -> list[str]:
    """What is given to `make psql`, and the statements of SQL blocks."""
    found = set()
    for path in [*ROOT.glob("README*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = path.read_text()
        found |= {single or double for single, double in PSQL.findall(text)}
        for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL):
            found |= {statement.strip() for statement in re.sub(r"--.*", "", block).split(";") if statement.strip()}
    return sorted(found)


def test_there_are_queries():
    assert len(queries()) > 10


@pytest.mark.parametrize("query", queries())
def test_a_query_of_the_documentation_can_be_asked(warehouse, query):
    assert isinstance(warehouse.rows(query, user="etl_read"), list)
