"""Settings that must stand before anything of ROS or torch is imported."""

import argparse
import contextlib
import gc
import importlib.util
import os
from collections import Counter

import hypothesis
import pytest

from rdvla_ros.nodes.common import transport

MANY_THREADS = 24  # two participants or so besides what torch has
_held = contextlib.ExitStack()  # until the process ends; the kernel gives the reservation back then


def _domain() -> dict[str, str]:
    """A ROS domain of its own, reserved on this host, over the loopback device: no robot on the network and no other run here is
    heard. With the transport that the nodes use."""
    if importlib.util.find_spec("rclpy") is None:
        return {}
    from rdvla_ros.bringup import launcher

    return _held.enter_context(launcher.free_domain())


# `make test` tries the same cases every time, so that it fails for what was changed; `make fuzz` looks for others.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.register_profile("fuzz", print_blob=True)
hypothesis.settings.load_profile("fuzz" if "RDVLA_FUZZ" in os.environ else "repeatable")
IN_WORKER = "PYTEST_XDIST_WORKER" in os.environ
os.environ.setdefault("MUJOCO_GL", "egl")
if IN_WORKER and os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") != "1":
    os.environ["OMP_NUM_THREADS"] = "1"  # threads of several processes that wait for each other take the time of all
else:
    os.environ.setdefault("OMP_NUM_THREADS", "2")
if "ROS_DOMAIN_ID" not in os.environ or IN_WORKER:
    os.environ.update(_domain())
else:
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.update(transport.variables(os.environ))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of a tiny policy whose chunks are legal motions."""
    from policy_rig import save_calm_checkpoint

    return save_calm_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture
def make_rig(capfd):
    """Makes policy nodes with a robot around them, and closes them. With the tiny policy: checkpoint=str(checkpoint)."""
    from policy_rig import Rig

    rigs = []

    def make(**parameters):
        rigs.append(Rig(capfd, **parameters))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


# These wait for real processes and real DDS, which a machine that does other work may starve for seconds. Such a test is
# repeated once, and pytest names it in its summary (R); one that fails twice has failed.
OVER_DDS = {
    "test_bringup", "test_end_to_end", "test_gate_node", "test_gate_process", "test_faults_joints",
    "test_monitor_node", "test_policy_node", "test_policy_node_life",
    "test_shared_joint_states", "test_sim_robot_node", "test_faults_sensors", "test_faults_time", "test_faults_model",
    "test_faults_flood", "test_faults_middleware", "test_faults_operator", "test_faults_process", "test_worker",
    "test_faults_config", "test_security", "test_namespaces", "test_transport", "test_sim_realtime",
    "test_executor", "test_policy_imported", "test_dashboard_gate", "test_dashboard_window", "test_monitor_outputs",
    "test_recorder_node", "test_alarm_processes", "test_policy_sensors",
}  # fmt: skip

# These run against the clock: processes, DDS. They mostly wait (15 % of a core), so `make test` runs two lanes of them, each with
# a ROS domain of its own, after what only computes. (The fuzzing has real nodes, and a clock of its own; the installation
# compiles for a minute.)
REAL_TIME = OVER_DDS | {"test_policy_start", "test_worker_keeper"}
SECONDS = {  # of a test, where it is far from 1 s
    "test_policy_imported": 48.0, "test_end_to_end": 4.5, "test_faults_model": 2.5, "test_faults_sensors": 1.8,
    "test_faults_time": 3.0, "test_faults_process": 4.5, "test_gate_node": 0.3, "test_bringup": 0.2,
    "test_alarm_processes": 6.0, "test_policy_sensors": 2.0, "test_policy_node": 2.6, "test_namespaces": 2.3,
    "test_faults_flood": 4.0, "test_gate_process": 1.6, "test_executor": 0.2, "test_faults_middleware": 0.3,
}  # fmt: skip


def pytest_addoption(parser):
    parser.addoption("--lane", metavar="K/N", type=_lane, help="only the K-th of N sets of files that last about equally long")


def _lane(text: str) -> tuple[int, int]:
    lane, _, lanes = text.partition("/")
    if not (lane.isdigit() and lanes.isdigit() and 1 <= int(lane) <= int(lanes)):
        raise argparse.ArgumentTypeError(f"expected K/N with 1 <= K <= N, got {text!r}")
    return int(lane), int(lanes)


def pytest_configure(config):
    if config.pluginmanager.hasplugin("rerunfailures"):
        config.option.rerun_show_tracebacks = True  # why a test was repeated stands in the summary


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_handlecrashitem(crashitem, sched):
    """A test that took its process with it has failed: no second try, whatever its file may have."""
    if database := getattr(sched.config, "failures_db", None):
        database.set_test_reruns(crashitem, 0)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.path.stem in REAL_TIME:
            item.add_marker(pytest.mark.real_time)
    if config.pluginmanager.hasplugin("rerunfailures"):
        for item in items:
            if item.path.stem in OVER_DDS:
                item.add_marker(pytest.mark.flaky(reruns=1))
    yield  # pytest takes out what the markers exclude
    if config.option.lane:
        items[:] = _in_lane(items, *config.option.lane)


def _in_lane(items, lane, lanes):
    """Whole files, the longest first, each to the lane that has least; tests keep their order."""
    seconds = Counter()
    for item in items:
        seconds[item.path.stem] += SECONDS.get(item.path.stem, 1.0)
    loads, own = [0.0] * lanes, set()
    for stem, length in sorted(seconds.items(), key=lambda entry: (-entry[1], entry[0])):
        least = loads.index(min(loads))
        loads[least] += length
        if least == lane - 1:
            own.add(stem)
    return [item for item in items if item.path.stem in own]


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish():
    """A policy node freezes what is in memory when it starts, in a test the whole suite's. What tests left in cycles, DDS
    participants with their threads among it, would then stay to the end, and discovery finds no more than some thirty."""
    gc.unfreeze()
    if len(os.listdir("/proc/self/task")) > MANY_THREADS:
        gc.collect()
