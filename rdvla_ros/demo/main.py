"""`rdvla demo`: the simulated robot under the policy, the gate and the monitor, for a few episodes."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions

from rdvla_ros.bringup import launcher
from rdvla_ros.bringup import processes as bringup
from rdvla_ros.demo.client import DemoClient
from rdvla_ros.demo.episode import Episode
from rdvla_ros.demo.episode_runner import EpisodeRunner
from rdvla_ros.demo.report import StatusLine, table, write_summary
from rdvla_ros.nodes.common import transport
from rdvla_ros.types import RdvlaError

VIDEO_HZ = 10.0
PASSED_ON = ("speed", "checkpoint", "task", "seed", "namespace", "params_file", "dashboard")  # launch arguments too
RUN = "run"  # folder of the recording
INTERRUPTED = 130  # 128 + SIGINT, as shells count it


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="rdvla demo",
        description="Run episodes of a task on the simulated robot: separate processes over ROS 2, on a ROS domain of their own.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    options.add_argument("--episodes", type=_at_least_one, default=3, help="how many")
    seed_help = "seed of the first episode's scene; the next ones count up. 0..99 are held out of training"
    options.add_argument("--seed", type=int, default=0, help=seed_help)
    options.add_argument("--speed", type=float, default=1.0, help="simulated seconds per second")
    checkpoint_help = "folder of the policy's weights; empty: the shipped one of the task"
    options.add_argument("--checkpoint", default="", help=checkpoint_help)
    options.add_argument("--task", default=bringup.TASKS[0], choices=bringup.TASKS, help="what the robot is to do")
    lengths = range(bringup.LONGEST_TRAIL + 1)
    options.add_argument(
        "--length", type=int, choices=lengths, help="follow_trail: hops of the trail; 0 to 5 by the seed where not given"
    )
    options.add_argument("--timeout", type=_positive, default=20.0, help="simulated seconds after which an episode ends")
    options.add_argument("--out", default="", help="folder for summary.json, films and logs; empty: runs/<time>")
    options.add_argument("--namespace", default="", help="namespace of all nodes, such as cell_1")
    options.add_argument("--params-file", default="", help="YAML file with parameters of the nodes, which win over the demo's")
    record_help = f"do not record the run into the folder's {RUN}/ (docs/recording.md)"
    options.add_argument("--no-record", action="store_true", help=record_help)
    films_help = "no camera for people: less work for the processor, so less latency"
    options.add_argument("--no-films", action="store_true", help=films_help)
    options.add_argument("--dashboard", action="store_true", help="also open the operator's window (needs a screen)")
    return options


def _at_least_one(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return int(text)


def _positive(text: str) -> float:
    if not 0.0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return float(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 when all episodes ran (with whatever success), 1 when they could not, 130 on Ctrl-C."""
    options = parser()
    settings = vars(options.parse_args(argv))
    if (length := settings.pop("length")) is not None:
        if settings["task"] != "follow_trail":
            options.error(f"--length: only for --task follow_trail, got {settings['task']}")
        settings["task"] += f":{length}"
    status = StatusLine()
    given = {"sim": True, **{name: settings[name] for name in PASSED_ON}}
    folder = _folder(settings["out"])
    record = "" if settings["no_record"] else str(folder / RUN)
    try:
        specs = bringup.processes({**given, "record": record}, view=not settings["no_films"])
        folder.mkdir(parents=True, exist_ok=True)
    except (RdvlaError, OSError) as error:
        print(f"rdvla demo: {error}", file=sys.stderr)
        return 1
    status.say(f"Logs, {'' if settings['no_films'] else 'films '}and summary.json: {folder}")
    session = Session(settings, folder, status)
    code, outcome = 0, "complete"
    try:
        with _signals_interrupt():
            session.run(specs)
    except KeyboardInterrupt:
        code, outcome = INTERRUPTED, "interrupted"
    except (RdvlaError, OSError) as error:
        code, outcome = 1, str(error)
    write_summary(folder / "summary.json", settings, session.episodes, outcome, session.exit_codes)
    if code:
        status.say(f"rdvla demo: {outcome}")
    if session.episodes:
        status.say(table(session.episodes))
    status.say(f"Summary: {folder / 'summary.json'}")
    if record and Path(record).is_dir():
        status.say(f"Recording: {record} ('rdvla report {os.path.relpath(record)}' makes a page of it)")
    return code


class Session:
    """One run of the demo: the processes and the episodes."""

    def __init__(self, settings: Mapping[str, Any], folder: Path, status: StatusLine):
        self._settings, self._folder, self._status = settings, folder, status
        self.episodes: list[Episode] = []
        self.exit_codes: dict[str, int | None] = {}

    def run(self, specs: Sequence[bringup.ProcessSpec]) -> None:
        with launcher.free_domain() as domain, _environment(domain):
            processes = launcher.start(specs, self._folder / "logs")
            try:
                with _link(int(domain["ROS_DOMAIN_ID"]), processes.check, specs[0].namespace) as link:
                    self._run_episodes(link, processes)
            finally:
                self.exit_codes = processes.stop()
        unclean = {node: code for node, code in self.exit_codes.items() if code}
        if unclean:
            self._status.say(f"Expected exit code 0 of every process, got {unclean}; see {self._folder / 'logs'}.")

    def _run_episodes(self, link: DemoClient, processes: launcher.Processes) -> None:
        count = self._settings["episodes"]
        runner = EpisodeRunner(link, self._status, self._folder, count, self._settings["timeout"], VIDEO_HZ)
        runner.wait_for_policy()
        for i in range(count):
            episode = Episode(number=i + 1, task=self._settings["task"], seed=self._settings["seed"] + i)
            self.episodes.append(episode)
            runner.run(episode)
            self._status.say(f"episode {episode.number} (seed {episode.seed}): {_outcome(episode)}")


def _outcome(episode: Episode) -> str:
    if episode.success:
        return f"success after {episode.success_s:.1f} s"
    return f"stage {episode.best_stage} of 4 ({episode.stage_name}) after {episode.elapsed_s:.1f} s"


@contextlib.contextmanager
def _link(domain: int, check: Callable[[], None], namespace: str) -> Iterator[DemoClient]:
    """rclpy's own signal handling is off: a Ctrl-C arrives as KeyboardInterrupt, with the wire still open."""
    transport.choose(images=True)  # the films
    context = rclpy.Context()
    rclpy.init(args=[], context=context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
    link = DemoClient(context, check, namespace)
    try:
        yield link
    finally:
        link.close()
        context.try_shutdown()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.pop("ROS_LOCALHOST_ONLY", None)  # the older switch would overrule the discovery range
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """A closed terminal and a termination end the run as Ctrl-C does, with everything stopped in order."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _folder(wanted: str) -> Path:
    return (Path(wanted) if wanted else Path("runs") / time.strftime("%Y-%m-%d_%H-%M-%S")).resolve()
