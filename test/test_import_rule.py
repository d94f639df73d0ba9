"""Who may import whom: the table of docs/architecture.md, held by walking the syntax trees, function-local imports included."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rdvla_ros"
GENERATED = {"msg", "srv"}
BASE = {"types", "robot", "robot_schema", "sensor_messages"}
# room -> what else it may import. A dotted name is a part of a room; the longest one that fits a file is its room.
ALLOWED = {
    "types": set(),
    "robot_schema": {"types"},
    "sensor_messages": set(),
    "robot": {"robot_schema", "sensor_messages", "types"},  # its errors
    "video": set(),
    "runs": {"control", "robot", "sensor_messages", "types", "video"},
    "model": {"types"},
    "model.import_checkpoint": {"model", "robot", "types"},  # the robot it is for
    "control": {"robot", "types"},
    "control.motion": {"robot", "types"},
    "control.supervision": {"robot", "types", "control.motion"},
    "sim": {"robot", "control", "types"},
    "learning": {"model", "robot", "robot_schema", "types"},
    "learning.data": {"model", "robot", "types", "video", "learning.config", "learning.schema"},
    "learning.training": {"model", "robot", "types", "learning.config", "learning.data", "learning.tuning"},
    "learning.estimate": {"model", "types", "learning.config", "learning.counting", "learning.training", "learning.tuning"},
    "learning.evaluation": {
        "model",
        "sim",
        "control",
        "robot",
        "types",
        "video",
        "learning.config",
        "learning.data",
        "learning.training",
    },
    "learning.evaluation.uncertainty": {
        "learning.evaluation",
        "model",
        "sim",
        "control",
        "robot",
        "runs",
        "types",
    },
    "learning.recording": {"model", "sim", "control", "robot", "types", "learning", "runs"},
    "compat": {"types"},
    "nodes": {"types"},
    "nodes.common": {"control", "compat", "robot", "sensor_messages", "types"} | GENERATED,
    "nodes.gate": {"control", "compat", "robot", "types", "nodes.common"} | GENERATED,
    "nodes.policy": {"model", "control", "compat", "robot", "types", "nodes.common"} | GENERATED,
    "nodes.monitor": {"control", "compat", "robot", "types", "nodes.common"} | GENERATED,
    "nodes.recorder": {"control", "compat", "robot", "types", "runs", "nodes.common"} | GENERATED,
    "nodes.sim_robot": {"sim", "control", "compat", "robot", "types", "nodes.common"} | GENERATED,
    "bringup": {"sim", "nodes", "robot", "types"},
    "demo": {"bringup", "control", "nodes.common", "robot", "types", "video"} | GENERATED,
    "bench": {"bringup", "model", "sim", "nodes", "control", "compat", "robot", "types"} | GENERATED,
    "bench.depth_cost": {"bench", "learning.counting", "learning.training", "model", "robot", "types"},
    "bench.dashboard": {"bench", "bringup", "dashboard", "nodes", "robot", "types"} | GENERATED,
    "dashboard": {"control", "nodes.common", "robot", "types"} | GENERATED,
    "cli": {"model", "learning.data", "robot", "types"},
}
WITHOUT_TORCH = {"control", "types", "robot", "robot_schema", "sensor_messages", "sim", "compat", "bringup", "runs"}
WITHOUT_ROS = {"model", "learning", "control", "sim", "types", "robot", "robot_schema", "sensor_messages", "runs"}
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def within(name: str, rooms) -> str:
    """The longest of `rooms` that the dotted name lies in; empty: in none."""
    return max((room for room in rooms if name == room or name.startswith(room + ".")), key=len, default="")


def module_of(path: Path) -> str:
    """Dotted name below rdvla_ros; a package's __init__ has the package's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path: Path, type_checking: bool = False) -> list[tuple[int, str]]:
    """(line, absolute dotted name) of every import, also those inside functions; those for type checking where asked."""
    found = []

    def visit(node):
        if not type_checking and isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
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
    room = within(module_of(path), ALLOWED)
    errors = [] if room else [f"{path}: expected a room of the table, found none"]
    for line, name in imported_modules(path):
        parts = name.split(".")
        where = f"{path.relative_to(PACKAGE.parent)}:{line}: {room} may not import {name}"
        if parts[0] == "rdvla_ros" and len(parts) > 1:
            target = ".".join(parts[1:])
            fits = within(target, ALLOWED) == room or within(target, ALLOWED[room]) or target == "__version__"
            if not fits:
                errors.append(where)
        elif (parts[0] == "torch" and room.split(".")[0] in WITHOUT_TORCH) or (
            parts[0] == "rclpy" and room.split(".")[0] in WITHOUT_ROS
        ):
            errors.append(where)
    return errors


def imported_files(path: Path) -> set[str]:
    """Modules of this package that a file imports, also for type checking only."""
    modules = {module_of(file) for file in FILES}
    names = {name.removeprefix("rdvla_ros.") for _, name in imported_modules(path, type_checking=True)}
    found = {name if name in modules else name.rpartition(".")[0] for name in names}
    return {name for name in found if name in modules} - {module_of(path)}


def circles() -> list[tuple[str, ...]]:
    """Groups of files that import each other, directly or through others."""
    graph = {module_of(path): imported_files(path) for path in FILES}
    reach = {name: set(targets) for name, targets in graph.items()}
    for middle in graph:  # Warshall's closure
        for targets in reach.values():
            if middle in targets:
                targets |= reach[middle]
    return sorted({tuple(sorted(n for n in graph if n in reach[m] and m in reach[n])) for m in graph if m in reach[m]})


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_import_is_in_the_table(path):
    assert not violations(path)


def test_a_forbidden_import_is_found_even_inside_a_function(tmp_path, monkeypatch):
    bad = tmp_path / "model" / "bad.py"
    bad.parent.mkdir()
    bad.write_text("def f():\n    from rdvla_ros.nodes.gate import node\n    import rclpy\n")
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert len(violations(bad)) == 2


def test_a_forbidden_import_between_parts_of_a_room_is_found(tmp_path, monkeypatch):
    bad = tmp_path / "control" / "motion" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text("from rdvla_ros.control.supervision import modes\nfrom rdvla_ros.control.motion import cubic\n")
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert len(violations(bad)) == 1


def test_no_files_import_each_other_in_a_circle():
    """Imports for type checking count: who reads one file of a circle has to read all of it."""
    assert not circles()


def test_a_circle_is_found(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("from rdvla_ros.b import x\n")
    (tmp_path / "b.py").write_text("if TYPE_CHECKING:\n    from rdvla_ros import c\n")
    (tmp_path / "c.py").write_text("def f():\n    import rdvla_ros.a\n")
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    monkeypatch.setitem(globals(), "FILES", sorted(tmp_path.glob("*.py")))
    assert circles() == [("a", "b", "c")]


def test_the_gate_imports_no_torch():
    """In a process of its own, since other tests load torch."""
    import subprocess
    import sys

    code = "import sys; import rdvla_ros.nodes.gate.node; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert out.stdout.strip() == "False", out.stdout + out.stderr
