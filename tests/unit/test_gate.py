"""The landing gate runs every system test."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_file_of_system_tests_is_in_one_part_of_the_gate():
    named = " ".join(re.findall(r"\$\(call tests,([^)]*)\)", (ROOT / "Makefile").read_text())).split()
    assert sorted(named) == sorted(path.stem.removeprefix("test_") for path in ROOT.glob("tests/system/test_*.py"))
