"""The processes that the bench measures: the simulated robot, the gate, the monitor and the policy, as a user starts them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rdvla_ros.bench.nodes.listener import Listener
from rdvla_ros.bench.nodes.usage import children
from rdvla_ros.bringup.launcher import Processes, start
from rdvla_ros.bringup.processes import SIM_ROBOT, ProcessSpec, processes
from rdvla_ros.robot import RobotDescription, shipped

STAND_IN = "rdvla_ros.bench.nodes.stand_in"  # a module, not installed as an executable
TRACED = {"gate": "rdvla_ros.bench.nodes.traced_gate", "sim_robot": "rdvla_ros.bench.nodes.traced_robot"}
START_S = 240.0
OPERATED = {"start_mode": "hold", "auto_resume": False}  # the bench is the operator
# The life signs' time-outs of real arms, the nodes' defaults. Where what is measured does not depend on them the bring-up's
# patience with a simulator that shares its processor with everything else stays.
STRICT_GATE = {"heartbeat_timeout_s": 0.07, "starved_s": 0.25}
STRICT_POLICY = {"gate_heartbeat_s": 0.07, "gate_timeout_s": 1.0, "decision_timeout_s": 2.0, "stall_s": 0.3}


class System:
    """stand_in: the policy node decides without a network (bench.control.stand_in). strict: time-outs as for real
    arms. priority: see `prefer`. traced: see traced.py. Use as a context manager."""

    def __init__(
        self,
        folder: Path,
        domain: Mapping[str, str],
        *,
        stand_in: bool = False,
        strict: bool = False,
        policy: Mapping[str, Any] | None = None,
        priority: int = 0,
        traced: bool = False,
    ):
        self.folder, self._domain, self._priority = folder, dict(domain), priority
        folder.mkdir(parents=True, exist_ok=True)
        self.said: list[tuple[str, float]] = []  # of the holds that were measured: why, and by the gate's clock when
        specs = {spec.node: spec for spec in processes({"sim": True})}
        own = {"checkpoint": str(folder.resolve())} if stand_in else {}
        parameters = {**specs["policy"].parameters, **(STRICT_POLICY if strict else {}), **own, **(policy or {})}
        specs["policy"] = replace(specs["policy"], executable=STAND_IN if stand_in else "policy_node", parameters=parameters)
        specs["gate"] = replace(
            specs["gate"], parameters={**specs["gate"].parameters, **OPERATED, **(STRICT_GATE if strict else {})}
        )
        if traced:
            specs |= {node: replace(specs[node], executable=module) for node, module in TRACED.items() if node in specs}
        self._specs: dict[str, ProcessSpec] = specs
        self._running: dict[str, Processes] = {}
        self.ears = Listener(RobotDescription.load(shipped(SIM_ROBOT)), int(self._domain["ROS_DOMAIN_ID"]))

    def __enter__(self) -> System:
        try:
            for name in self._specs:
                self.start(name)
            self.ears.run_until_moving(START_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for running in reversed(self._running.values()):
            running.stop()
        self.ears.close()

    def start(self, name: str) -> None:
        """Once more, where it was killed."""
        if name in self._running:
            self._running[name].stop()
        self._running[name] = start([self._specs[name]], self.folder / "logs", self._domain)
        prefer(self.pid(name), self._priority)
        if name == "policy" and self._priority:
            threading.Thread(target=self._prefer_decisions, args=(self.pid(name),), daemon=True).start()

    def restart(self) -> None:
        """All of it, in the order of a first start."""
        for running in reversed(self._running.values()):
            running.stop()
        for name in self._specs:
            self.start(name)

    def _prefer_decisions(self, policy: int) -> None:
        """The policy's decision process, as soon as it is there: it has a session of its own."""
        end_s = time.monotonic() + START_S
        while not (found := children(policy)) and time.monotonic() < end_s:
            time.sleep(0.2)
        for pid in found:
            with contextlib.suppress(OSError):
                prefer(pid, self._priority)

    def pid(self, name: str) -> int:
        return self._running[name][name].process.pid

    def pids(self) -> dict[str, int]:
        """All processes; the policy's decision process is one of its own."""
        pids = {name: self.pid(name) for name in self._specs}
        workers = children(pids["policy"])
        return {**pids, **({"decisions": workers[0]} if workers else {})}

    def kill(self, *names: str, number: int = signal.SIGKILL) -> float:
        """Send all of them a signal at once; returns when (steady clock)."""
        pids = [self.pid(name) for name in names]
        at_s = time.monotonic()
        for pid in pids:
            os.kill(pid, number)
        return at_s


def prefer(pid: int, priority: int) -> None:
    """Nice value of a process and its session: Linux shares the processor among sessions first (autogroups), by their own."""
    if priority:
        os.setpriority(os.PRIO_PROCESS, pid, priority)
        group = Path(f"/proc/{pid}/autogroup")
        if group.exists():
            group.write_text(str(priority))
