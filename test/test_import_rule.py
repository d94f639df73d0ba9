"""Who may import whom: the table of docs/architecture.md, held by walking the syntax trees, function-local imports included."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rdvla_ros"
ROOMS = {"model", "learning", "control", "sim", "nodes", "compat", "dashboard", "cli", "types", "robot", "robot_schema"}
GENERATED = {"msg", "srv"}
ALLOWED = {
    "types": set(),
    "robot_schema": {"types"},
    "robot": {"robot_schema", "types"},  # its errors
    "model": {"types"},
    "control": {"robot", "types"},
    "sim": {"robot", "control", "types"},
    "learning": {"model", "sim", "control", "robot", "types"},
    "compat": {"types"},
    "nodes": {"model", "control", "sim", "compat", "robot", "types"} | GENERATED,
    "dashboard": {"control", "types", "nodes.conversions"} | GENERATED,
    "cli": ROOMS,
}
WITHOUT_TORCH = {"control", "types", "robot", "robot_schema", "sim", "compat"}
WITHOUT_ROS = {"model", "learning", "control", "sim", "types", "robot", "robot_schema"}
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imported_modules(path: Path) -> list[tuple[int, str]]:
    """(line, absolute dotted name) of every import, also those inside functions; TYPE_CHECKING blocks are left out."""
    found = []

    def visit(node):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            return
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = ("rdvla_ros", *path.relative_to(PACKAGE).parts[:-1])
                base = ".".join(parents[: len(parents) - node.level + 1]) + ("." + base if base else "")
            found.extend((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def violations(path: Path) -> list[str]:
    room = room_of(path)
    errors = []
    for line, name in imported_modules(path):
        parts = name.split(".")
        where = f"{path.relative_to(PACKAGE.parent)}:{line}: {room} may not import {name}"
        if parts[0] == "rdvla_ros" and len(parts) > 1:
            target = parts[1]
            allowed = ALLOWED[room]
            fits = target == room or target in allowed or ".".join(parts[1:3]) in allowed or target == "__version__"
            if not fits:
                errors.append(where)
        elif (parts[0] == "torch" and room in WITHOUT_TORCH) or (parts[0] == "rclpy" and room in WITHOUT_ROS):
            errors.append(where)
    return errors


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_import_is_in_the_table(path):
    assert not violations(path)


def test_a_forbidden_import_is_found_even_inside_a_function(tmp_path, monkeypatch):
    bad = tmp_path / "model" / "bad.py"
    bad.parent.mkdir()
    bad.write_text("def f():\n    from rdvla_ros.nodes import gate_node\n    import rclpy\n")
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert len(violations(bad)) == 2


def test_the_gate_imports_no_torch():
    """In a process of its own, since other tests load torch."""
    import subprocess
    import sys

    code = "import sys; import rdvla_ros.nodes.gate.node; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert out.stdout.strip() == "False", out.stdout + out.stderr
