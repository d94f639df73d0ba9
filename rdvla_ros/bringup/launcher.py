"""Runs the processes of `bringup` where there is no ros2 launch.

Each process gets a process group and a log file of its own, so a Ctrl-C in the terminal reaches only the starter, which
then stops them in order. Nothing stays behind: `stop` ends with SIGKILL to the whole group, and the kernel kills every
process when the starter dies without stopping them (the arms then rest at the end of the trajectory on the wire).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from rdvla_ros.bringup.processes import PACKAGE, BringupError, ProcessSpec, executable_of
from rdvla_ros.nodes.common import transport
from rdvla_ros.robot import import_path

GRACE_S = ((signal.SIGINT, 6.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0))  # what is sent, and how long it is waited
LOG_LINES = 15
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
DISCOVERY_PORT, PORTS_PER_DOMAIN = 7400, 250  # DDS: RTPS 2.2, 9.6.1
DOMAINS = range(60, 100)  # above those people choose by hand, below Linux's ephemeral ports
_libc = ctypes.CDLL(None)


def command(spec: ProcessSpec, parameter_file: Path) -> list[str]:
    arguments = ["--ros-args", "--params-file", str(parameter_file)]
    if spec.params_file:  # the later file wins
        arguments += ["--params-file", spec.params_file]
    for source, target in spec.remappings:
        arguments += ["-r", f"{source}:={target}"]
    if spec.namespace:
        arguments += ["-r", f"__ns:={spec.namespace}"]
    if spec.package != PACKAGE:
        return [str(executable_of(spec.package, spec.executable)), *arguments]
    return [sys.executable, "-u", "-m", spec.module, *arguments]


def write_parameters(path: Path, spec: ProcessSpec) -> None:
    """As a file, since text on the command line would be read as YAML: an instruction 'yes' would arrive as a boolean."""
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(spec.parameters)}}, allow_unicode=True), encoding="utf-8")


@dataclass
class Running:
    spec: ProcessSpec
    process: subprocess.Popen
    log: Path

    def last_lines(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (nothing)"


class Processes:
    """The started processes. Use as a context manager, or call `stop`."""

    def __init__(self) -> None:
        self.running: list[Running] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __getitem__(self, node: str) -> Running:
        return next(item for item in self.running if item.spec.node == node)

    @property
    def exit_codes(self) -> dict[str, int | None]:
        """Node name -> exit code (negative: the signal that ended it), None while it runs."""
        return {item.spec.node: item.process.poll() for item in self.running}

    def check(self) -> None:
        """Raise BringupError when a needed process has ended by itself, with the end of its log."""
        for item in self.running:
            code = item.process.poll()
            if code is not None and item.spec.needed:
                raise BringupError(
                    f"The process of node '{item.spec.node}' was expected to run and ended with code {code}. "
                    f"Its last lines ({item.log}):\n{item.last_lines()}"
                )

    def stop(self) -> dict[str, int | None]:
        """End all processes, the last started first; safe to call twice. A second Ctrl-C during it kills the rest at once."""
        try:
            for item in reversed(self.running):
                for number, seconds in GRACE_S:
                    if _ended(item.process, number, seconds):
                        break
        finally:
            for item in self.running:
                _signal_group(item.process, signal.SIGKILL)  # also what the process itself has started
                with contextlib.suppress(subprocess.TimeoutExpired):
                    item.process.wait(timeout=5.0)
        return self.exit_codes


def start(specs: Sequence[ProcessSpec], log_folder: Path, environment: Mapping[str, str] | None = None) -> Processes:
    """Start the processes in order, logs and parameter files in `log_folder`. Call it in the main thread: the kernel ties
    the processes to the life of the calling thread."""
    log_folder = Path(log_folder).resolve()
    log_folder.mkdir(parents=True, exist_ok=True)
    surroundings = {**os.environ, "PYTHONPATH": import_path(), "ROS_LOG_DIR": str(log_folder / "ros"), **(environment or {})}
    processes = Processes()
    try:
        for spec in specs:
            processes.running.append(_start_one(spec, log_folder, surroundings))
    except BaseException:
        processes.stop()
        raise
    return processes


def _start_one(spec: ProcessSpec, log_folder: Path, surroundings: Mapping[str, str]) -> Running:
    parameter_file, log = log_folder / f"{spec.node}.yaml", log_folder / f"{spec.node}.log"
    write_parameters(parameter_file, spec)
    parent = os.getpid()

    def die_with_parent() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    with open(log, "wb") as output:
        process = subprocess.Popen(
            command(spec, parameter_file),
            env=dict(surroundings),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    return Running(spec, process, log)


def _ended(process: subprocess.Popen, number: int, seconds: float) -> bool:
    """Send a signal to the process and wait; its group gets SIGKILL only, so that it can end its own children in order."""
    if process.poll() is not None:
        return True
    if number == signal.SIGKILL:
        _signal_group(process, number)
    else:
        process.send_signal(number)
    try:
        process.wait(timeout=seconds)
        return True
    except subprocess.TimeoutExpired:
        return False


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def free_domain() -> Iterator[dict[str, str]]:
    """Environment variables of a ROS domain on this host that nobody uses, reserved until the end of the context, with the
    transport of nodes/common/transport.py.

    A loopback TCP port stands for the reservation: the kernel gives it back however the process ends.
    """
    offset = os.getpid() % len(DOMAINS)  # so that two starters seldom try the same ones
    for domain in [*DOMAINS[offset:], *DOMAINS[:offset]]:
        reservation = _reserve(DISCOVERY_PORT + PORTS_PER_DOMAIN * domain)
        if reservation:
            break
    else:
        raise BringupError(
            f"Expected a free ROS domain among {DOMAINS.start}..{DOMAINS.stop - 1} on this host, found none. End some."
        )
    with reservation:
        on_this_host = {transport.RANGE: "LOCALHOST", transport.PEERS: ""}
        yield {"ROS_DOMAIN_ID": str(domain), **on_this_host, **transport.variables({**os.environ, **on_this_host})}


def _reserve(base_port: int) -> socket.socket | None:
    """A socket that holds the domain with this base port; None when another run holds it or a participant is there."""
    reservation = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        reservation.bind(("127.0.0.1", base_port))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("", base_port + 10))  # unicast discovery port of a domain's first participant
    except OSError:
        reservation.close()
        return None
    return reservation
