"""Whether a node's process on this host lives: what silence alone cannot tell from a process that waits for its turn.

A node's process holds a lock on a file of the node's name, and its number stands in it. The kernel gives the lock back when the
process ends, however it ends; whether it was stopped is in /proc. On another host, in another container, for another user, or
without the file nothing is known, and silence has to be enough.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

STOPPED = frozenset("TtZXx")  # states in /proc: stopped, traced, dead


def path_of(name: str, domain_id: int) -> Path:
    """name: of the node, in full."""
    folder = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return Path(folder) / f"rdvla_{os.getuid()}_{domain_id}{name.replace('/', '.')}.life"


class LifeLine:
    """Held by this process until `close`, or its end. Where another node of this name has it, or there is no room: without it."""

    def __init__(self, name: str, domain_id: int):
        self._file: int | None = None
        with contextlib.suppress(OSError):
            file = os.open(path_of(name, domain_id), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(file, 0)
                os.pwrite(file, f"{os.getpid()} {_started(os.getpid())}".encode(), 0)
                self._file = file
            except OSError:
                os.close(file)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def lives(name: str, domain_id: int) -> bool:
    """Whether a process on this host has the life line of this node, and is neither stopped nor dead. False: no, or not known."""
    try:
        file = os.open(path_of(name, domain_id), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if os.fstat(file).st_uid != os.getuid():
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False  # nobody has it
        except BlockingIOError:
            pass
        number, started = os.read(file, 64).decode().split()
        return _started(int(number)) == started and _state(int(number)) not in STOPPED
    except (OSError, ValueError):
        return False
    finally:
        os.close(file)


def _fields(process: int) -> list[str]:
    """Of /proc/<process>/stat, from the state on: the name before may hold anything."""
    return Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _state(process: int) -> str:
    return _fields(process)[0]


def _started(process: int) -> str:
    """When it began, in ticks since the boot: another process of this number, in another container say, began at another time."""
    return _fields(process)[19]
