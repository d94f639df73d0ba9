"""`rdvla bench controllers`: real joint_trajectory_controllers under gate, monitor and policy. Do their references stay within
the limits at chunk boundaries and holds, and how smooth are they beside what other bridges send?

With --mock it starts ros2_control's own mock hardware with one controller per arm; without, the controllers that the robot
description names must be running (in simulation, or on a robot: then its arms swing by 0.12 rad about where they are). With
--emulated nothing is started: what is sent goes into the emulation of sim/controller.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rdvla_ros.bench.controllers import measure, mock, offline, report
from rdvla_ros.bench.controllers.bridges import WAYS, Bridge
from rdvla_ros.bench.controllers.late import LateMotions
from rdvla_ros.bench.controllers.rig import Ears, running, specs
from rdvla_ros.bench.machine import machine
from rdvla_ros.bringup.launcher import free_domain
from rdvla_ros.nodes.common import transport
from rdvla_ros.robot import RobotDescription, shipped

START_S = 20.0


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    command = "rdvla bench controllers " + shlex.join(sys.argv[3:] if argv is None else argv)
    for rate_hz in options.rates if options.mock or options.emulated else [0.0]:
        result = _emulated(options, rate_hz) if options.emulated else _on_controllers(options, rate_hz)
        result |= {"command": command.strip(), "machine": machine(), "date": date.today().isoformat()}
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"{'emulated_' if options.emulated else ''}{result['update_rate_hz']:g}hz.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(report.table(report.load(options.out, "emulated_" if options.emulated else "")))
    print(f"saved in {options.out}/*.json")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rdvla bench controllers", description=__doc__)
    parser.add_argument("--robot", type=Path, default=shipped("config/aloha_sim.yaml"), help="robot description")
    parser.add_argument("--mock", action="store_true", help="start controllers on ros2_control's mock hardware")
    parser.add_argument("--emulated", action="store_true", help="no controllers: the emulation, without a clock")
    parser.add_argument("--rates", type=float, nargs="+", default=[100.0, 500.0], help="of mock and emulation [Hz]")
    parser.add_argument("--boundaries", type=int, default=100, help="chunks that join a running motion")
    parser.add_argument("--holds", type=int, default=20, help="holds in motion")
    parser.add_argument("--inference", type=float, default=0.2, help="how long a decision takes, without --shipped-policy [s]")
    parser.add_argument("--bridges", type=float, default=20.0, help="seconds of each other way, on the mock or emulated")
    parser.add_argument("--late", type=float, default=20.0, help="seconds in which motions reach the gate late, by 20 to 200 ms")
    parser.add_argument("--shipped-policy", action="store_true", help="the shipped checkpoint, seeing the simulated robot")
    parser.add_argument("--patient", action="store_true", help="time-outs for a machine that does much else")
    parser.add_argument("--longest", type=float, default=900.0, help="seconds after which boundaries end with what there is")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the holds")
    parser.add_argument("--out", type=Path, default=Path("docs/bench/controllers"), help="folder of the results")
    return parser


def _emulated(options: argparse.Namespace, rate_hz: float) -> dict[str, Any]:
    robot = RobotDescription.load(options.robot)
    return offline.measured(robot, rate_hz, options.boundaries, options.inference, options.bridges)


def _on_controllers(options: argparse.Namespace, rate_hz: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="rdvla_bench_") as folder, _domain(options) as domain:
        os.environ.update(domain)
        return _measured(options, Path(folder), domain, rate_hz)


@contextlib.contextmanager
def _domain(options: argparse.Namespace) -> Iterator[Mapping[str, str]]:
    """A ROS domain of its own for the mock; where controllers run already, theirs."""
    if options.mock:
        with free_domain() as domain:
            yield domain
    else:
        yield {"ROS_DOMAIN_ID": os.environ.get("ROS_DOMAIN_ID", "0"), **transport.variables(os.environ)}


def _measured(options: argparse.Namespace, folder: Path, domain: Mapping[str, str], rate_hz: float) -> dict[str, Any]:
    robot, robot_file = RobotDescription.load(options.robot), options.robot
    if options.mock:
        robot = mock.on_mock_hardware(robot, rate_hz)
        robot_file = mock.description_file(robot, options.robot, folder / "robot.yaml")
    ears = Ears(robot.in_namespace("/"), int(domain["ROS_DOMAIN_ID"]))
    controllers = mock.MockControllers(robot, folder, ears.node, domain) if options.mock else contextlib.nullcontext()
    try:
        with controllers:
            ears.wait(lambda: all(ears.states.reports.values()), START_S, "the controllers' states.")
            result = {
                "update_rate_hz": robot.controller.update_rate_hz,
                "ours": _ours(options, ears, robot, robot_file, folder, domain),
            }
            if options.late:
                result["late"] = _late(options, ears, robot, robot_file, folder, domain)
            if options.mock and options.bridges:
                result["others"] = {name: _other(options, ears, robot, way) for name, way in WAYS.items()}
    finally:
        ears.close()
    return result


def _ours(
    options: argparse.Namespace, ears: Ears, robot: RobotDescription, robot_file: Path, folder: Path, domain: Mapping[str, str]
) -> dict[str, Any]:
    listed = specs(robot_file, folder, shipped_policy=options.shipped_policy, patient=options.patient)
    with running(listed, ears, folder, domain), tqdm(total=options.boundaries + options.holds, smoothing=0.1) as bar:
        if not options.shipped_policy:
            ears.instruct(f"infer {options.inference:g}")
        ears.states.forget()
        begun_ns = time.time_ns()
        spans, joined, reasons = measure.boundaries(ears, options.boundaries, bar.update, options.longest)
        held = measure.holds(ears, options.holds, np.random.default_rng(options.seed), bar.update)
        windows = {"boundaries": spans, "holds in motion": held, "all of it, resumes too": measure.span(begun_ns)}
    return {
        "boundaries": joined,
        "holds": len(held),
        "held by the gate": reasons,
        "limits": measure.numbers(ears.states, robot, windows),
        "smoothness": measure.smooth(ears.states, robot, spans),
    }


def _late(
    options: argparse.Namespace, ears: Ears, robot: RobotDescription, robot_file: Path, folder: Path, domain: Mapping[str, str]
) -> dict[str, Any]:
    """The same while every motion comes late; what comes too late the gate refuses, and the arms end at rest meanwhile."""
    motions = LateMotions(ears.node, ears.arms, options.seed)
    listed = specs(robot_file, folder, shipped_policy=options.shipped_policy, patient=options.patient, late=True)
    try:
        with running(listed, ears, folder / "late", domain):
            ears.states.forget()
            motions.passed.clear()
            begun_ns, end_s = time.time_ns(), time.monotonic() + options.late
            while time.monotonic() < end_s:
                ears.resume()
                time.sleep(0.2)
            spans = measure.span(begun_ns)
            sent = len({stamp for arm in ears.states.sent.values() for stamp, _ in arm})
    finally:
        motions.close()
    return {
        "motions": len(motions.passed),
        "messages to the controllers": sent,
        "limits": measure.numbers(ears.states, robot, {"motions late by 20 to 200 ms": spans}),
        "smoothness": measure.smooth(ears.states, robot, spans),
    }


def _other(options: argparse.Namespace, ears: Ears, robot: RobotDescription, way: Any) -> dict[str, Any]:
    bridge = Bridge(ears.node, robot, np.array([p for arm in robot.arms for p in mock.home(arm).values()]))
    try:
        ears.wait(lambda: True, 1.0, "")
        time.sleep(1.0)  # until the controllers have found the bridge
        bridge.go_there()
        ears.states.forget()
        bridge.run(lambda: way(bridge), 1.0)  # its first step is not judged
        begun_ns = time.time_ns()
        bridge.run(lambda: way(bridge), options.bridges)
        spans = measure.span(begun_ns)
        sent = {arm: len(messages) for arm, messages in ears.states.sent.items()}
        return {
            "messages": max(sent.values()),
            "moved": round(measure.moved(ears.states, ears.arms), 4),
            "limits": measure.numbers(ears.states, robot, {"all of it": spans}),
            "smoothness": measure.smooth(ears.states, robot, spans),
        }
    finally:
        bridge.close()
