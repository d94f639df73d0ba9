"""Which transport the processes use: no shared memory, unless the user decided otherwise."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from rdvla_ros.bringup import launcher
from rdvla_ros.bringup.processes import MODULES
from rdvla_ros.nodes.common import transport
from rdvla_ros.robot import import_path, shipped

FAST_DDS = {"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}
LOCAL = {**FAST_DDS, transport.RANGE: "LOCALHOST"}
MINE = {
    "FASTRTPS_DEFAULT_PROFILES_FILE": "mine.xml",
    "FASTDDS_DEFAULT_PROFILES_FILE": "mine.xml",
    "FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA",
    "RDVLA_TRANSPORT": "shared_memory",
}


def without_shared_memory(environment):
    """As Fast DDS sees it: a profile in force with UDP alone, and a range in which the middleware adds nothing."""
    path = environment.get(transport.PROFILES[0], "")
    kinds = [e.text for e in ElementTree.parse(path).iter() if e.tag.endswith("}type")] if Path(path).is_file() else []
    return kinds == ["UDPv4"] and not transport.on_this_host_only(environment)


@pytest.mark.parametrize("range_", [{}, {transport.RANGE: "SUBNET"}, {transport.RANGE: "LOCALHOST"}, {transport.OLD_RANGE: "1"}])
def test_no_range_leaves_shared_memory_in_use(range_):
    given_ = {**FAST_DDS, **range_}
    chosen = {**given_, **transport.variables(given_)}
    assert without_shared_memory(chosen)
    local = "LOCALHOST" in range_.values() or "1" in range_.values()
    assert (str(shipped(transport.LOOPBACK)) == chosen[transport.PROFILES[0]]) == local, "the range must stay what it was"


@given(
    st.fixed_dictionaries(
        {},
        optional={
            transport.RANGE: st.sampled_from(["LOCALHOST", "localhost", "SUBNET", "OFF", "SYSTEM_DEFAULT", ""]),
            transport.OLD_RANGE: st.sampled_from(["0", "1"]),
            transport.PEERS: st.sampled_from(["", "10.0.0.1"]),
            transport.BUILTIN: st.sampled_from(["UDPv4", "SHM", "DEFAULT", "LARGE_DATA"]),
            transport.PROFILES[0]: st.sampled_from(["", "mine.xml"]),
            transport.VARIABLE: st.sampled_from(["", "udp", "shared_memory"]),
        },
    )
)
def test_whatever_is_set_a_process_and_those_that_it_starts_choose_the_same(environment):
    """The decision is taken once: a process that inherits it changes nothing, and what the user set stays."""
    first = {**FAST_DDS, **environment}
    once = {**first, **transport.variables(first)}
    assert {**once, **transport.variables(once)} == once
    images = {**once, **transport.variables(once, images=True)}
    assert images == {**first, **transport.variables(first, images=True)} and {**images, **transport.variables(images)} == once
    hers = [
        name for name in (*transport.PROFILES, transport.BUILTIN, transport.PEERS, transport.VARIABLE) if environment.get(name)
    ]
    assert all(once[name] == environment[name] for name in hers)


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("range_", ["LOCALHOST", "SUBNET"])
def test_what_the_user_has_set_stays(name, range_):
    assert transport.variables({**FAST_DDS, transport.RANGE: range_, name: MINE[name]}) == {}


def test_a_profile_in_the_working_directory_is_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("DEFAULT_FASTRTPS_PROFILES.xml").write_text("<dds/>")
    assert transport.variables(LOCAL) == {}


def test_another_middleware_is_left_alone():
    assert transport.variables({**LOCAL, "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}) == {}


def test_a_process_on_this_host_stays_there_under_a_profile_for_the_network():
    inherited = {**FAST_DDS, **transport.variables(FAST_DDS), transport.RANGE: "LOCALHOST"}
    assert transport.variables(inherited)[transport.PROFILES[0]] == str(shipped(transport.LOOPBACK))


def test_an_unknown_transport_is_refused():
    with pytest.raises(transport.TransportError, match="RDVLA_TRANSPORT: expected 'udp' or 'shared_memory', got 'tcp'"):
        transport.variables({**FAST_DDS, transport.VARIABLE: "tcp"})


def test_what_the_surroundings_do_not_allow_is_said_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(transport, "RECEIVE_LIMIT", tmp_path / "rmem_max")
    transport.RECEIVE_LIMIT.write_text("212992\n")
    chosen = {**LOCAL, **transport.variables(LOCAL)}
    (sentence,) = transport.remarks(chosen, images=True)
    assert "kernel allows 212992" in sentence and "sysctl -w net.core.rmem_max=4194304" in sentence
    assert transport.remarks(chosen, images=False) == []
    transport.RECEIVE_LIMIT.write_text("4194304\n")
    assert transport.remarks(chosen, images=True) == []
    (sentence,) = transport.remarks({**LOCAL, transport.PEERS: "10.0.0.1"}, images=True)
    assert transport.PEERS in sentence and "SUBNET" in sentence


def test_the_buffers_of_the_profiles_are_those_that_are_asked_of_the_kernel():
    for name in transport.FOR_IMAGES.values():
        assert f"<receiveBufferSize>{transport.RECEIVE_BYTES}</receiveBufferSize>" in shipped(name).read_text()


@pytest.mark.parametrize("range_", ["LOCALHOST", "OFF"])
@pytest.mark.parametrize("executable", ["gate_node", "monitor_node", "policy_node", "sim_robot_node"])
def test_no_node_has_a_thread_or_a_file_of_shared_memory(executable, range_, tmp_path):
    """The real processes as a user starts them. OFF: as SUBNET, but without a word to the network."""
    with launcher.free_domain() as domain:
        environment = {name: value for name, value in os.environ.items() if name not in (*transport.PROFILES, transport.RANGE)}
        environment |= {"ROS_DOMAIN_ID": domain["ROS_DOMAIN_ID"], "PYTHONPATH": import_path(), "ROS_LOG_DIR": str(tmp_path)}
        environment[transport.RANGE] = range_
        parameters = ["--ros-args", "-p", f"robot:={shipped('config/aloha_sim.yaml')}"]
        command = [sys.executable, "-m", MODULES[executable], *parameters]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            names = threads(process, tmp_path / "log")
            assert not [name for name in names if "shm" in name], names
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            assert "/dev/shm/fastrtps" not in maps and "/dev/shm/fastdds" not in maps
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20.0) == 0, (tmp_path / "log").read_text()
        finally:
            process.kill()
            process.wait()


def threads(process, log, seconds=60.0):
    """Names of the process's threads, once its participant has the ports of its discovery and its data."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        assert process.poll() is None, log.read_text()
        names = []
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # it has just ended
                names.append((task / "comm").read_text().strip())
        if sum("udp" in name for name in names) >= 2:
            time.sleep(0.3)  # those of shared memory begin at the same time
            return names
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:.0f} s for the participant's threads:\n{log.read_text()}")
