"""Every row of the fault catalogue is a test named after it (`test_row_41_...`, or `test_row_27_47_...` for several).

python test/test_fault_catalogue.py > docs/faults.md
"""

import ast
import functools
import re
from collections import defaultdict
from pathlib import Path

from fault_rows import CHOICES, ROWS, UNBUILT

TESTS = Path(__file__).parent
NAME = re.compile(r"test_row_((?:\d+_)+)(.*)")
PAGE = """# Faults

What goes wrong on a robot, and what then happens. Every row is a test of that number (`pytest test -k row_41`), with the real
nodes over DDS where the row is about processes, messages or their timing. *Hold* stops both arms until an operator resumes;
*pause* does too, but may end by itself.

| row | fault | tests |
|---|---|---|
"""


@functools.cache
def covered() -> dict[int, list[tuple[str, str]]]:
    """row -> (file, what the test's name says) of the tests that carry its number."""
    tests = defaultdict(list)
    for path in sorted(TESTS.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (match := NAME.match(node.name)):
                for row in match[1].split("_")[:-1]:
                    tests[int(row)].append((path.name, match[2].replace("_", " ")))
    return dict(tests)


def page() -> str:
    lines = []
    for row, fault in ROWS.items():
        said = "; ".join(f"{sentence} (`{file}`)" for file, sentence in covered().get(row, []))
        lines.append(f"| {row} | {fault} | {said or 'not tested: ' + UNBUILT[row]} |")
    choices = [f"- Row {row}. {text}" for row, text in CHOICES.items()]
    return "\n".join([PAGE.rstrip("\n"), *lines, "", "Where the reaction is a choice:", "", *choices, ""])


def test_every_row_of_the_catalogue_has_a_test_or_a_reason_why_not():
    assert list(ROWS) == [*range(1, 70), *range(81, 86)]
    missing = [row for row in ROWS if row not in covered() and row not in UNBUILT]
    assert not missing, f"rows without a test: {missing}"


def test_no_row_that_has_a_test_is_listed_as_unbuilt():
    assert not sorted(set(UNBUILT) & set(covered()))
    assert all(reason.strip() for reason in UNBUILT.values())


def test_the_page_tells_of_every_row():
    text = (TESTS.parent / "docs" / "faults.md").read_text(encoding="utf-8")
    assert text == page(), "run: python test/test_fault_catalogue.py > docs/faults.md"


if __name__ == "__main__":
    print(page(), end="")
