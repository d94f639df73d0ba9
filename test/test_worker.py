"""The decision process: whatever it does, the caller's thread goes on and knows it."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import worker_cases
from worker_cases import CAMERAS, JOINTS

from rdvla_ros.nodes.policy.worker.client import ProcessWorker
from rdvla_ros.nodes.policy.worker.protocol import WorkerError, WorkerLost, decision_from_dict, decision_to_dict
from rdvla_ros.types import Observation

PATIENCE_S = 60.0


def observation(instruction="go", level=0, cameras=CAMERAS):
    images = {name: np.full((height, width, 3), level, np.uint8) for name, height, width in cameras}
    return Observation(images, np.linspace(-0.3, 0.3, JOINTS), instruction, 12.5)


@pytest.fixture
def start(monkeypatch):
    """Starts processes that run a case, and ends them."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    workers = []

    def make(case="led", **settings):
        workers.append(ProcessWorker(f"worker_cases:{case}", settings, CAMERAS))
        return workers[-1]

    yield make
    for worker in workers:
        worker.kill("the test ends")
        worker.process.wait(10)


@pytest.fixture
def worker(start):
    worker = start()
    worker.loaded.result(PATIENCE_S)
    return worker


def ask(worker, instruction="go", **given):
    return worker.submit(observation(instruction, **given)).result(PATIENCE_S)


def failure(worker, instruction):
    return worker.submit(observation(instruction)).exception(PATIENCE_S)


def test_a_decision_comes_back_bit_for_bit(worker):
    for level in (0, 255, 17):
        assert ask(worker, level=level).chunk.positions == pytest.approx(
            worker_cases.decision(observation(level=level)).chunk.positions, abs=0.0
        )
    got, expected = ask(worker), worker_cases.decision(observation())
    for name in ("iterations", "limit", "threshold", "stop_reason", "converged", "notes", "timings"):
        assert getattr(got, name) == getattr(expected, name)
    assert np.array_equal(got.change, expected.change, equal_nan=True) and np.isnan(got.spread)
    assert got.chunk.stamp_s == 12.5 and got.refinement is None


def test_the_text_on_the_way_keeps_every_bit():
    rng = np.random.default_rng(0)
    for _ in range(50):
        positions = rng.standard_normal((8, 14)) * 10.0 ** rng.integers(-12, 6)
        positions.flat[rng.integers(0, positions.size)] = rng.choice([np.nan, np.inf, -0.0, 5e-324])
        original = worker_cases.decision(observation())
        original = type(original)(**{**vars(original), "chunk": type(original.chunk)(positions, 0.1, rng.uniform(0, 2e9))})
        import json

        back = decision_from_dict(json.loads(json.dumps(decision_to_dict(original))))
        assert back.chunk.positions.tobytes() == positions.tobytes() and back.chunk.stamp_s == original.chunk.stamp_s


def test_what_is_raised_is_an_answer_and_the_process_lives_on(worker):
    assert isinstance(error := failure(worker, "bad input"), WorkerError)
    assert error.failure.input and str(error) == "the words are unknown"
    assert "SystemExit: a library gives up" in str(failure(worker, "exit"))
    assert ask(worker).converged and worker.alive


def test_an_image_of_another_size_is_refused_before_anything_is_sent(worker):
    wrong = tuple((name, height + 1, width) for name, height, width in CAMERAS)
    error = worker.submit(observation(cameras=wrong)).exception(PATIENCE_S)
    assert "expected an image of shape (48, 64, 3), got (49, 64, 3)" in str(error)
    assert ask(worker).converged


def test_a_load_that_fails_says_why(start):
    worker = start("failing_load")
    assert str(worker.loaded.exception(PATIENCE_S)) == "expected something else"
    assert worker.process.wait(PATIENCE_S) == 0


def test_a_process_that_crashes_is_noticed_at_once_and_named(worker):
    begun_s = time.monotonic()
    assert "ended with code -11" in str(failure(worker, "crash"))
    assert time.monotonic() - begun_s < 10.0 and not worker.alive
    assert isinstance(worker.submit(observation()).exception(PATIENCE_S), WorkerLost), "and answers nothing any more"


def test_a_killed_process_fails_what_it_was_asked(worker):
    asked = worker.submit(observation("hang"))
    os.kill(worker.process.pid, signal.SIGKILL)
    assert isinstance(asked.exception(PATIENCE_S), WorkerLost)


def test_the_caller_never_waits_and_a_hang_ends_by_kill(worker):
    begun_s = time.monotonic()
    asked = worker.submit(observation("hang"))
    worker.kill("it hangs")
    assert time.monotonic() - begun_s < 5.0 and str(asked.exception(0.0)) == "it hangs"
    assert worker.process.wait(PATIENCE_S) == -signal.SIGKILL


def test_close_lets_a_decision_end_and_leaves_nothing(worker):
    asked = worker.submit(observation("slow"))
    assert worker.close(PATIENCE_S) and asked.result(0.0).converged and worker.process.returncode == 0


def test_descriptors_and_memory_do_not_grow_with_the_processes(start):
    def descriptors():
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    start("failing_load").loaded.exception(PATIENCE_S)
    before = None
    for _ in range(4):
        worker = start("failing_load")
        worker.loaded.exception(PATIENCE_S)
        worker.close(PATIENCE_S)
        before = before or descriptors()
    assert descriptors() <= before


PARENT = """
import sys, time
from rdvla_ros.nodes.policy.worker.client import ProcessWorker
from worker_cases import CAMERAS
worker = ProcessWorker("worker_cases:led", {}, CAMERAS)
worker.loaded.result(60)
if sys.argv[1] == "hang":
    from test_worker import observation
    worker.submit(observation("hang"))
print(worker.process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("doing", ["nothing", "hang"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_parent(doing, number):
    """Whatever it is doing then; a Ctrl-C reaches the parent only."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, doing], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background may ignore it
    )  # fmt: skip
    try:
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.send_signal(number)
        parent.wait(PATIENCE_S)
        end_s = time.monotonic() + 10.0
        while alive(pid) and time.monotonic() < end_s:
            time.sleep(0.01)
        assert not alive(pid)
    finally:
        parent.kill()
        parent.stdout.close()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.mark.parametrize(
    "modules, stranger",
    [
        ("rdvla_ros.nodes.policy.worker.main, rdvla_ros.nodes.policy.worker.loading", "rclpy"),
        ("rdvla_ros.nodes.policy.node", "torch"),
    ],
)
def test_the_process_imports_no_ros_and_the_node_no_torch(modules, stranger):
    code = f"import sys; import {modules}; print('{stranger}' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert out.stdout.strip() == "False", out.stdout + out.stderr
