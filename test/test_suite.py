"""The suite itself: a test that crashes or hangs its process is one failure with its name, and a repeated test says why."""

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("xdist")
pytest.importorskip("pytest_rerunfailures")

ROOT = Path(__file__).resolve().parents[1]
PARTS = re.findall(r"-m pytest test (-m [^)\n]*)", (ROOT / "scripts" / "test.sh").read_text())
FIRST = """
import os, threading
import pytest

def test_before(): pass

@pytest.mark.flaky(reruns=1)
def test_that_aborts(): os.abort()

def test_behind_it(): pass

def test_has_a_domain(): assert 60 <= int(os.environ["ROS_DOMAIN_ID"]) < 100

@pytest.mark.timeout(1)
def test_that_hangs(): threading.Lock().acquire() and threading.Event().wait()
"""
SECOND = """
import pytest
tries = []

def test_at_rest(): pass

@pytest.mark.flaky(reruns=1)
def test_that_needs_two_tries():
    tries.append(1)
    assert len(tries) == 2, "the machine was busy"

def test_that_fails(): assert not "as expected"

def test_at_the_end(): pass
"""


@pytest.mark.parametrize("options", PARTS, ids=["computes", "real_time"])
def test_no_test_takes_the_others_with_it(tmp_path, options):
    """With the options of both parts of scripts/test.sh, apart from the marker."""
    (tmp_path / "test_first.py").write_text(FIRST)
    (tmp_path / "test_second.py").write_text(SECOND)
    words = shlex.split(options)[2:]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        ROOT / "pyproject.toml",
        "--rootdir",
        tmp_path,
        "-p",
        "conftest",
        tmp_path,
        *words,
    ]
    path = os.pathsep.join([str(ROOT / "test"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "ROS_DOMAIN_ID"))}
    run = subprocess.run(command, env={**environment, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1 and "3 failed, 6 passed, 1 rerun" in run.stdout, run.stdout + run.stderr
    failed = set(re.findall(r"^FAILED \S+::(\w+)", run.stdout, re.MULTILINE))
    assert failed == {"test_that_aborts", "test_that_hangs", "test_that_fails"}
    assert re.search(r"crashed while running '\S*::test_that_aborts'", run.stdout)
    assert re.search(r"RERUN \S+::test_that_needs_two_tries\n[\s\S]*the machine was busy", run.stdout), "the reason is missing"


def test_there_are_two_parts():
    assert len(PARTS) == 2 and all("-n " in part for part in PARTS)


def test_lanes_hold_each_test_once_and_keep_a_file_together(tmp_path):
    for name, count in {"a": 5, "b": 1, "c": 3, "d": 4}.items():
        (tmp_path / f"test_{name}.py").write_text("".join(f"def test_{i}(): pass\n" for i in range(count)))
    found = [_collected(tmp_path, f"{lane}/2") for lane in (1, 2)]
    assert {name: count for part in found for name, count in part.items()} == {"a": 5, "b": 1, "c": 3, "d": 4}
    assert [sorted(part) for part in found] == [["a", "b"], ["c", "d"]]  # 6 and 7 tests
    assert _collected(tmp_path, "3/2") == {}


def _collected(folder, lane):
    """File -> number of tests, in the lane."""
    words = ["-c", ROOT / "pyproject.toml", "--rootdir", folder, "-p", "conftest", folder, "--collect-only", "-q", "--lane", lane]
    path = os.pathsep.join([str(ROOT / "test"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Counter(re.findall(r"^test_(\w+)\.py::", run.stdout, re.MULTILINE))
