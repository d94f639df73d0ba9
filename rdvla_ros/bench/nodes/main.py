"""`rdvla bench control`: the control path with the real nodes: holds, deaths, deadlines, punctuality, memory, processor."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rdvla_ros.bench.nodes import parts, report, trace
from rdvla_ros.bench.nodes.system import System, prefer
from rdvla_ros.bringup.launcher import free_domain
from rdvla_ros.bringup.processes import SIM_ROBOT
from rdvla_ros.robot import RobotDescription, shipped

INFERENCE_S = (0.05, 0.2, 0.4)  # of the boundaries part
TIMEOUT_S = 0.5  # the decision's deadline in the watchdog part


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    if options.priority:
        os.setsid() if os.getpgrp() != os.getpid() else None  # a session of its own, with a priority of its own
        prefer(os.getpid(), options.priority)
    command = "rdvla bench control " + shlex.join(sys.argv[3:] if argv is None else argv)
    for name in options.parts:
        with tempfile.TemporaryDirectory(prefix="rdvla_bench_") as folder, free_domain() as domain:
            os.environ.update(domain)  # the bench listens over the same transport as the nodes
            print(f"{name}:", flush=True)
            report.save(options.out, name, RUNS[name](options, Path(folder), domain), command.strip())
    found = report.load(options.out)
    print(report.table(found))
    report.plot(found, options.out / "control.png")
    print(f"saved in {options.out}/*.json and control.png")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("rdvla bench control", description=__doc__)
    parts_help = "what is measured; none: only the report"
    parser.add_argument("--parts", nargs="*", choices=tuple(RUNS), default=list(RUNS), help=parts_help)
    parser.add_argument("--n", type=int, default=100, help="repetitions of holds and deaths")
    parser.add_argument("--longest", type=float, default=3600.0, help="seconds after which a part ends with what it has")
    parser.add_argument("--restarts", type=int, default=5, help="repetitions of all_killed, each with a start of everything")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the soak")
    parser.add_argument("--stand-in", action="store_true", help="a policy without a network, that starts faster, in every part")
    parser.add_argument("--priority", type=int, default=0, help="nice value of nodes and bench, where others compute too")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--out", type=Path, default=Path("docs/bench/control"), help="folder of the results")
    return parser


def _holds(loaded: bool) -> Callable:
    def run(options: argparse.Namespace, folder: Path, domain: dict) -> dict[str, Any]:
        with _system(options, folder, domain) as system, _Bar(options.n) as tick:
            return parts.holds(system, _repeat(options, tick), np.random.default_rng(options.seed), loaded=loaded)

    return run


def _burst(options: argparse.Namespace, folder: Path, domain: dict) -> dict[str, Any]:
    with _system(options, folder, domain) as system:
        return parts.burst(system, 60.0 if options.n >= 100 else 10.0)


def _deaths(measure: Callable) -> Callable:
    def run(options: argparse.Namespace, folder: Path, domain: dict) -> dict[str, Any]:
        with _system(options, folder, domain, strict=True) as system, _Bar(options.n) as tick:
            result = measure(system, _repeat(options, tick), np.random.default_rng(options.seed))
        return {"stand_in": options.stand_in, **result}

    return run


def _watchdog(options: argparse.Namespace, folder: Path, domain: dict) -> dict[str, Any]:
    limits = {"decision_timeout_s": TIMEOUT_S}
    with (
        System(folder, domain, stand_in=True, strict=True, policy=limits, priority=options.priority) as system,
        _Bar(options.n) as tick,
    ):
        return {"decision_timeout_s": TIMEOUT_S, **parts.watchdog(system, _repeat(options, tick), TIMEOUT_S)}


def _all_killed(options: argparse.Namespace, folder: Path, domain: dict) -> dict[str, Any]:
    runs, random = [], np.random.default_rng(options.seed)
    with _Bar(options.restarts) as tick:
        for number in range(options.restarts):
            with nullcontext(domain) if number == 0 else free_domain() as fresh, _system(options, folder, fresh) as system:
                runs.append(parts.all_killed(system, random))
                tick()
    return {"runs": runs}


def _boundaries(options: argparse.Namespace, folder: Path, domain: dict) -> dict[str, Any]:
    robot = RobotDescription.load(shipped(SIM_ROBOT))
    with _system(options, folder, domain, stand_in=True) as system, _Bar(len(INFERENCE_S) * options.n) as tick:
        return {"runs": [parts.boundaries(system, _repeat(options, tick), robot, s) for s in INFERENCE_S]}


def _trace(options: argparse.Namespace, folder: Path, domain: dict) -> dict[str, Any]:
    def system(where: Path, domain: dict) -> System:
        return System(where, domain, stand_in=options.stand_in, priority=options.priority, traced=True)

    with _Bar(2 * options.n) as tick:
        return trace.trace(system, folder, domain, options.n, tick, options.seed)


def _soak(options: argparse.Namespace, folder: Path, domain: dict) -> dict[str, Any]:
    seconds = 60.0 * options.minutes
    with _system(options, folder, domain) as system, _Bar(int(seconds / parts.SAMPLE_S)) as tick:
        return parts.soak(system, seconds, tick)


def _system(options: argparse.Namespace, folder: Path, domain: dict, stand_in: bool = False, strict: bool = False) -> System:
    return System(folder, domain, stand_in=stand_in or options.stand_in, strict=strict, priority=options.priority)


def _repeat(options: argparse.Namespace, tick: Callable[[], None]) -> parts.Repeat:
    return parts.Repeat(options.n, tick, options.longest)


class _Bar:
    """A progress bar whose value is its step."""

    def __init__(self, total: int):
        self._bar = tqdm(total=total, smoothing=0.1)

    def __enter__(self) -> Callable[[], None]:
        return self._bar.update

    def __exit__(self, *_: object) -> None:
        self._bar.close()


RUNS: dict[str, Callable] = {
    "holds_idle": _holds(loaded=False),
    "holds_loaded": _holds(loaded=True),
    "burst": _burst,
    "stopped": _deaths(parts.stopped),
    "killed": _deaths(parts.killed),
    "gate_killed": _deaths(parts.gate_killed),
    "watchdog": _watchdog,
    "all_killed": _all_killed,
    "boundaries": _boundaries,
    "soak": _soak,
    "trace": _trace,
}
