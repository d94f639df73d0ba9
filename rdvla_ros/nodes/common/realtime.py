"""How the gate gets its turn: before other programs, and without waiting for dead neighbours."""

from __future__ import annotations

import os

from rdvla_ros.robot import shipped

PROFILE = "config/fastdds_loopback.xml"
OTHER_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "ROS_STATIC_PEERS")


def without_shared_memory() -> None:
    """Fast DDS's shared memory lets a writer wait for a second or two on a lock that a killed or stopped process holds: just when
    the gate has to stop the arms. The gate hears no images, so UDP costs it nothing. To be called before rclpy.init.

    In the discovery range LOCALHOST rmw_fastrtps chooses the transports itself and ignores the variable; there a profile gives
    the same range without them. What the user has set stays. Other middlewares ignore the variable.
    """
    os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    if os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() != "LOCALHOST" or any(map(os.environ.get, OTHER_PROFILES)):
        return
    from rclpy.utilities import get_rmw_implementation_identifier

    if get_rmw_implementation_identifier().startswith("rmw_fastrtps"):
        os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(shipped(PROFILE))
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SYSTEM_DEFAULT"


def prefer(priority: int) -> str:
    """SCHED_FIFO for the threads that this process has now and those they start; returns why not, or empty.

    What ros2_control's controller manager does for itself. priority: 1..99.
    """
    try:
        for thread in map(int, os.listdir("/proc/self/task")):
            try:
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
            except ProcessLookupError:  # it has just ended
                continue
    except (OSError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
