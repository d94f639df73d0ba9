"""The tasks of the simulated ALOHA by name. A name may be followed by an option: 'follow_trail:5' is a trail of 5 hops."""

from __future__ import annotations

from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.tasks.aloha import ALOHA_TASKS
from rdvla_ros.sim.tasks.base import MAX_STAGE, Task
from rdvla_ros.sim.tasks.follow_trail import FollowTrail
from rdvla_ros.sim.trails import LONGEST, check_length
from rdvla_ros.types import nearest_names

__all__ = ["MAX_STAGE", "TASKS", "TASK_NAMES", "Task", "get_task", "named_task"]

TASKS: dict[str, Task] = {**{task.name: task for task in ALOHA_TASKS}, FollowTrail.name: FollowTrail()}
# every text that `get_task` takes
TASK_NAMES = (*TASKS, *(f"{FollowTrail.name}:{length}" for length in range(LONGEST + 1)))


def get_task(name: str) -> Task:
    """The task of a name with its option."""
    plain, colon, option = name.partition(":")
    if plain not in TASKS:
        raise SimulationError(f"Task '{name}' does not exist. {nearest_names(plain, TASKS)}")
    if not colon:
        return TASKS[plain]
    if plain != FollowTrail.name:
        raise SimulationError(f"Task '{name}': '{plain}' has no options; only '{FollowTrail.name}' has one, its length.")
    if not option.lstrip("-").isdigit():
        raise SimulationError(f"Task '{name}': expected {FollowTrail.name}:<hops>, 0 to {LONGEST} of them, got '{option}'.")
    return FollowTrail(check_length(int(option)))


def named_task(name: str, length: int | None = None) -> str:
    """The text for `get_task` of a task and, where it is given, the length of its trail."""
    text = name if length is None else f"{name}:{length}"
    get_task(text)
    return text
