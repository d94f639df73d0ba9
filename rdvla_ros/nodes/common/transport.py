"""Which transport Fast DDS uses in the processes of this package: UDP, without shared memory.

Fast DDS's shared memory has locks in it that all processes on the host share. A process that is killed or stopped while it holds
one keeps its neighbours waiting for 1 or 2 s, and the end of a neighbour may then crash: the closing thread waits for the lock of
a port while the receiving thread gives the port up and unmaps it (SharedMemManager::Listener::close and regenerate_port, Fast DDS
2.14.5 and its newest branch of 2026-08). Over UDP processes share nothing. docs/results/transport.md has what that costs.

What the user has set about Fast DDS stays. RDVLA_TRANSPORT=shared_memory gives the middleware's own choice back. To be called
before the first rclpy.init of a process: Fast DDS reads its profiles once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rdvla_ros.robot import shipped
from rdvla_ros.types import RdvlaError

VARIABLE, UDP, SHARED_MEMORY = "RDVLA_TRANSPORT", "udp", "shared_memory"
NETWORK, LOOPBACK = "config/fastdds_udp.xml", "config/fastdds_loopback.xml"
FOR_IMAGES = {NETWORK: "config/fastdds_udp_images.xml", LOOPBACK: "config/fastdds_loopback_images.xml"}  # large buffers
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # up to Fast DDS 2; from 3 on
FOUND_BY_ITSELF = ("DEFAULT_FASTRTPS_PROFILES.xml", "DEFAULT_FASTDDS_PROFILES.xml")  # in the working directory
BUILTIN, RANGE, OLD_RANGE, PEERS = (
    "FASTDDS_BUILTIN_TRANSPORTS",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_LOCALHOST_ONLY",
    "ROS_STATIC_PEERS",
)
RECEIVE_BYTES = 4 * 2**20  # as in the profiles; three images of 640 x 480 at one moment are 2.8 MB
RECEIVE_LIMIT = Path("/proc/sys/net/core/rmem_max")


class TransportError(RdvlaError):
    """A transport that does not exist."""


def choose(images: bool = False) -> None:
    """Set it for this process and those that it starts. images: it receives some."""
    os.environ.update(variables(os.environ, images))


def variables(environment: Mapping[str, str], images: bool = False) -> dict[str, str]:
    """Environment variables to set over `environment`; none where the user has decided, or without Fast DDS.

    Only what receives images has large buffers: in a flood, what waits in them is a second old when it is read.

    In the discovery range LOCALHOST rmw_fastrtps adds shared memory whatever the profile says. There a profile that knows only
    the loopback device stands for the range.
    """
    wanted = environment.get(VARIABLE) or UDP
    if wanted not in (UDP, SHARED_MEMORY):
        raise TransportError(f"{VARIABLE}: expected '{UDP}' or '{SHARED_MEMORY}', got '{wanted}'.")
    if wanted == SHARED_MEMORY or _decided(environment) or not _is_fast_dds(environment):
        return {}
    if not on_this_host_only(environment):
        here = environment.get(PROFILES[0]) in _paths(LOOPBACK)  # from a process that has chosen, for LOCALHOST
        return _profile(LOOPBACK if here else NETWORK, images)
    if environment.get(PEERS):
        return {}  # the profile would lose them; see remarks
    old = {OLD_RANGE: "0"} if environment.get(OLD_RANGE) else {}
    return {RANGE: "SYSTEM_DEFAULT", **old, **_profile(LOOPBACK, images)}


def remarks(environment: Mapping[str, str], images: bool) -> list[str]:
    """Sentences for the log of a node about what the surroundings do not allow. images: it receives some."""
    if environment.get(VARIABLE) == SHARED_MEMORY or not _is_fast_dds(environment):
        return []
    found = []
    if on_this_host_only(environment) and environment.get(PEERS) and not _decided(environment):
        found.append(
            f"{PEERS} with the range LOCALHOST: Fast DDS uses shared memory, and this process may wait or crash at its end "
            f"after a neighbour was killed. Set {RANGE}=SUBNET with the same peers."
        )
    allowed = receive_limit()
    if images and not _decided(environment) and allowed < RECEIVE_BYTES:
        found.append(
            f"Expected receive buffers of {RECEIVE_BYTES} bytes, the kernel allows {allowed} (net.core.rmem_max): images of more "
            f"than about {allowed} bytes may get lost. Run: sudo sysctl -w net.core.rmem_max={RECEIVE_BYTES} "
            "(to keep it: a file in /etc/sysctl.d)."
        )
    return found


def receive_limit() -> int:
    """Largest receive buffer that the kernel gives to a socket [bytes]."""
    try:
        return int(RECEIVE_LIMIT.read_text())
    except (OSError, ValueError):  # not Linux
        return RECEIVE_BYTES


def on_this_host_only(environment: Mapping[str, str]) -> bool:
    """The range that the user has asked for is LOCALHOST."""
    return environment.get(RANGE, "").upper() == "LOCALHOST" or environment.get(OLD_RANGE) == "1"


def _profile(name: str, images: bool) -> dict[str, str]:
    return dict.fromkeys(PROFILES, str(shipped(FOR_IMAGES[name] if images else name)))


def _paths(*names: str) -> set[str]:
    return {str(shipped(path)) for name in names for path in (name, FOR_IMAGES[name])}


def _decided(environment: Mapping[str, str]) -> bool:
    """The user has chosen transports or a profile; our own, from a process before, are no choice of hers."""
    ours = _paths(NETWORK, LOOPBACK)
    builtin = environment.get(BUILTIN, "").upper()
    return (
        any(environment.get(name) and environment[name] not in ours for name in PROFILES)
        or bool(builtin and not builtin.startswith("UDPV4"))
        or any(Path(name).is_file() for name in FOUND_BY_ITSELF)
    )


def _is_fast_dds(environment: Mapping[str, str]) -> bool:
    """As rmw_implementation chooses: what is asked for, else Fast DDS where its library is found. Without a look at rclpy, since
    this stands before its import."""
    name = environment.get("RMW_IMPLEMENTATION")
    if name:
        return name.startswith("rmw_fastrtps")
    folders = environment.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    return any(folder and Path(folder, "librmw_fastrtps_cpp.so").is_file() for folder in folders)
