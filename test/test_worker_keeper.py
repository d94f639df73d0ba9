"""Always one decision process: what follows on one that hangs, ends or loads something else. Processes and time are made up."""

from concurrent.futures import Future

import pytest
from worker_cases import LOADED

from rdvla_ros.nodes.policy.worker.protocol import Failure, Loaded, WorkerError, WorkerLost
from rdvla_ros.nodes.policy.worker.supervisor import LONGEST_WAIT_S, WorkerSupervisor

ANOTHER = Loaded(**{**vars(LOADED), "identity": "two"})


class FakeProcess:
    def poll(self):
        return -9


class FakeWorker:
    def __init__(self, loaded=None):
        self.loaded, self.alive, self.killed, self.asked, self.process = Future(), True, "", [], FakeProcess()
        if isinstance(loaded, Exception):
            self.loaded.set_exception(loaded)
        elif loaded is not None:
            self.loaded.set_result(loaded)

    def submit(self, *_):
        self.asked.append(Future())
        return self.asked[-1]

    def kill(self, why):
        self.alive, self.killed = False, why

    def close(self, timeout_s):
        self.kill("closed")


@pytest.fixture
def workers():
    return []


def keeper(workers, loads=(), **options):
    """loads: what each further process loads; LOADED where nothing is said."""
    coming = iter(loads)

    def start():
        workers.append(FakeWorker(next(coming, LOADED)))
        return workers[-1]

    return WorkerSupervisor(start, **{"timeout_s": 2.0, "load_timeout_s": 60.0, "now_s": 100.0, **options})


def test_a_decision_that_takes_too_long_costs_the_process_and_the_next_one_starts(workers):
    kept = keeper(workers)
    assert not kept.why_not() and not kept.watch(100.0)
    kept.submit(None, 100.0)
    assert not kept.watch(101.9)
    assert "expected within 2 s" in kept.watch(102.1) and "has not come" in workers[0].killed
    assert "another one will be started" in kept.why_not()
    assert not kept.watch(102.2) and len(workers) == 2 and not kept.why_not()


def test_an_answer_in_time_costs_nothing(workers):
    kept = keeper(workers)
    for now_s in (100.0, 101.0, 102.0):
        kept.submit(None, now_s).set_result("a decision")
        assert not kept.watch(now_s + 50.0)
    assert len(workers) == 1


def test_a_process_that_ends_is_followed_at_once_and_one_that_ends_again_and_again_ever_later(workers):
    kept, now_s, waits = keeper(workers), 100.0, []
    for _ in range(8):
        workers[-1].alive = False
        assert "ended by itself" in kept.watch(now_s)
        begun_s, count = now_s, len(workers)
        while len(workers) == count:
            now_s += 0.25
            kept.watch(now_s)
        waits.append(now_s - begun_s)
    assert waits == sorted(waits) and waits[0] <= 0.25 and waits[1] <= 1.0 and waits[-1] == LONGEST_WAIT_S


def test_a_decision_that_comes_is_a_new_beginning(workers):
    kept = keeper(workers)
    for now_s in (100.0, 200.0, 300.0):
        workers[-1].alive = False
        assert kept.watch(now_s) and not kept.watch(now_s + 40.0)
        kept.submit(None, now_s + 41.0).set_result("a decision")
        kept.watch(now_s + 42.0)
    workers[-1].alive = False
    assert kept.watch(400.0) and not kept.watch(400.1) and len(workers) == 5


def test_a_checkpoint_that_changed_on_disk_is_not_taken_until_somebody_configures_anew(workers):
    kept = keeper(workers, [LOADED, ANOTHER])
    workers[0].alive = False
    assert kept.watch(100.0) and not kept.watch(100.1)
    assert "another one than this node was configured with" in kept.watch(100.2)
    for now_s in (101.0, 200.0):
        assert not kept.watch(now_s)
    assert len(workers) == 2 and "configured with" in kept.why_not()


def test_a_load_that_hangs_is_given_up(workers):
    kept = keeper(workers)
    workers[0].loaded = Future()
    assert kept.why_not() == "The decision process is loading the policy." and not kept.watch(159.0)
    assert "loading for 60.5 s" in kept.watch(160.5)


def test_a_first_load_that_fails_or_takes_too_long_says_why(workers):
    failed = keeper(workers, [WorkerError(Failure("expected something else", "CheckpointError", ours=True))])
    with pytest.raises(WorkerError, match="^expected something else$"):
        failed.loaded(1.0)
    hangs = keeper(workers)
    hangs.first = Future()
    with pytest.raises(WorkerLost, match="load_timeout_s"):
        hangs.loaded(0.01)


def test_after_the_end_nothing_is_started(workers):
    kept = keeper(workers)
    kept.close(0.5)
    assert not kept.watch(100.0) and not kept.watch(900.0) and len(workers) == 1 and kept.why_not() == "The node ends."
