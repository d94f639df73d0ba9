"""Every row of the fault catalogue is a test named after it (`test_row_41_...`, or `test_row_27_47_...` for several)."""

import ast
import functools
import re
from collections import defaultdict
from pathlib import Path

from fault_rows import UNBUILT

TESTS = Path(__file__).parent
ROWS = range(1, 70)
NAME = re.compile(r"test_row_((?:\d+_)+)")


@functools.cache
def covered() -> dict[int, list[str]]:
    """row -> the tests that carry its number."""
    tests = defaultdict(list)
    for path in sorted(TESTS.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (match := NAME.match(node.name)):
                for row in match[1].split("_")[:-1]:
                    tests[int(row)].append(f"{path.name}::{node.name}")
    return dict(tests)


def test_every_row_of_the_catalogue_has_a_test_or_a_reason_why_not():
    tests = covered()
    missing = [row for row in ROWS if row not in tests and row not in UNBUILT]
    assert not missing, f"rows without a test: {missing}"


def test_no_row_that_has_a_test_is_listed_as_unbuilt():
    assert not sorted(set(UNBUILT) & set(covered()))
    assert all(reason.strip() for reason in UNBUILT.values())
