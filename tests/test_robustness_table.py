"""docs/robustness.md: every test that its tables name is there, and they have the rows that they promise."""

import re
import subprocess
import sys

from tests.conftest import PROJECT

MARKDOWN = (PROJECT / "docs" / "robustness.md").read_text(encoding="utf-8")
TABLES = re.findall(r"^\| (?:input|what happens) \|.*\n\|[-|]*\n((?:\|.*\n)+)", MARKDOWN, re.MULTILINE)
ROWS = [row for table in TABLES for row in table.splitlines()]


def test_every_row_names_a_test_that_is_there():
    named = [re.findall(r"`(tests/[^`]*\.py(?:::[^`]*)?)`", row) for row in ROWS]
    assert all(named), ROWS[[bool(tests) for tests in named].index(False)]
    wanted = {test.replace("\\|", "|") for tests in named for test in tests}
    files = sorted({test.split("::")[0] for test in wanted})
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "--collect-only", "-q", *files]
    found = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300).stdout.splitlines()
    there = {line for line in found if "::" in line}
    there |= {line.split("[")[0] for line in there} | {line.split("::")[0] for line in there}
    assert not wanted - there, sorted(wanted - there)


def test_there_are_sixty_rows_and_no_input_stands_twice():
    inputs = [row.split(" | ")[0] for row in ROWS]
    assert len(inputs) >= 60 and len(set(inputs)) == len(inputs)
