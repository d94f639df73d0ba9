"""Gate, monitor and policy before running controllers, started as a user starts them, and who listens to all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rdvla_ros.bench.controllers.late import remappings
from rdvla_ros.bench.controllers.recorder import StateRecorder
from rdvla_ros.bench.nodes.listener import Listener
from rdvla_ros.bringup.launcher import start
from rdvla_ros.bringup.processes import SIM_GATE, SIM_POLICY, ProcessSpec, processes
from rdvla_ros.nodes.common import names
from rdvla_ros.robot import RobotDescription

STAND_IN, CAMERAS = "rdvla_ros.bench.nodes.stand_in", "rdvla_ros.bench.controllers.cameras"
OPERATED = {"start_mode": "hold", "auto_resume": False}  # the bench is the operator


class Ears(Listener):
    """Hears the nodes, and through `states` the controllers."""

    def __init__(self, robot: RobotDescription, domain_id: int):
        super().__init__(robot, domain_id, hear_states=False)
        self.states = StateRecorder(robot, domain_id, self.state_heard)

    def close(self) -> None:
        self.states.close()
        super().close()


def specs(robot_file: Path, folder: Path, *, shipped_policy: bool, patient: bool, late: bool = False) -> list[ProcessSpec]:
    """The processes, in starting order. shipped_policy: the checkpoint that comes with the package, which sees through the
    simulated robot's cameras; that robot hears the same messages and is heard nowhere else. Without it a policy that needs no
    network, and noise for pictures. patient: the time-outs of the simulated robot, for a machine that does much else. late: the
    policy's motions go past `LateMotions`."""
    robot = RobotDescription.load(robot_file)
    given: dict[str, Any] = {"robot": str(robot_file), "instruction": "swing"}
    if shipped_policy:
        listed = list(processes({**given, "sim": True, "instruction": ""}))
        listed[0] = replace(listed[0], remappings=(*listed[0].remappings, *_away(robot)))
    else:
        own = {"checkpoint": str(folder.resolve())}  # where the stand-in leaves notes; for the policy only
        listed = [replace(s, parameters={**s.parameters, **own}) if s.node == names.POLICY else s for s in processes(given)]
        listed.insert(0, ProcessSpec(CAMERAS, "cameras", {"robot": str(robot_file)}))
    by_name = {spec.node: spec for spec in listed}
    gate, policy = by_name[names.GATE], by_name[names.POLICY]
    usual = processes(given)  # the parameters of a real robot
    if not patient:
        gate = replace(gate, parameters=next(s for s in usual if s.node == names.GATE).parameters)
        strict = dict(next(s for s in usual if s.node == names.POLICY).parameters)
        policy = replace(policy, parameters=strict | {k: policy.parameters[k] for k in ("checkpoint", "instruction")})
    else:
        gate = replace(gate, parameters={**gate.parameters, **SIM_GATE})
        policy = replace(policy, parameters={**policy.parameters, **SIM_POLICY})
    by_name[names.GATE] = replace(gate, parameters={**gate.parameters, **OPERATED})
    if late:
        policy = replace(policy, remappings=(*policy.remappings, *remappings([arm.name for arm in robot.arms])))
    by_name[names.POLICY] = policy if shipped_policy else replace(policy, executable=STAND_IN)
    return list(by_name.values())


def _away(robot: RobotDescription) -> Iterator[tuple[str, str]]:
    """The simulated robot's reports go where nobody listens: the real controllers report."""
    for topic in dict.fromkeys([t for a in robot.arms for t in (a.joint_states_topic, a.controller_state_topic)]):
        yield topic, f"seen/{topic.strip('/')}"
    for node in dict.fromkeys([n for a in robot.arms for n in (a.controller, a.controller_manager)]):
        yield f"{node}/get_parameters", f"seen/{node.strip('/')}/get_parameters"


@contextmanager
def running(
    listed: list[ProcessSpec], ears: Ears, folder: Path, domain: Mapping[str, str], seconds: float = 240.0
) -> Iterator[None]:
    """The processes, once they move the arms."""
    with start(listed, folder / "logs", domain):
        end_s = time.monotonic() + seconds
        ears.wait(lambda: ears.gate is not None, end_s - time.monotonic(), "the gate.")
        ears.run_until_moving(end_s - time.monotonic())
        yield
