"""Does a process on this host live? Real processes: running, stopped, killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdvla_ros.nodes.common.life import LifeLine, lives, path_of

NAME, DOMAIN = "/cell_1/policy", 7
HOLDER = (
    "import sys, time; from rdvla_ros.nodes.common.life import LifeLine; line = LifeLine(sys.argv[1], int(sys.argv[2])); "
    "print('up', flush=True); time.sleep(60)"
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def becomes(expected, seconds=10.0):
    end_s = time.monotonic() + seconds
    while lives(NAME, DOMAIN) is not expected and time.monotonic() < end_s:
        time.sleep(0.01)
    return lives(NAME, DOMAIN) is expected


def test_a_process_lives_until_it_is_stopped_or_killed():
    assert not lives(NAME, DOMAIN), "of a process that never was nothing is known"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, NAME, str(DOMAIN)], stdout=subprocess.PIPE, env=environment)
    try:
        assert holder.stdout.readline() == b"up\n"
        assert lives(NAME, DOMAIN) and not lives(NAME, DOMAIN + 1) and not lives("/policy", DOMAIN)
        holder.send_signal(signal.SIGSTOP)
        assert becomes(False)
        holder.send_signal(signal.SIGCONT)
        assert becomes(True)
        holder.kill()
        assert becomes(False), "before anybody has asked how it ended: a zombie holds nothing"
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_the_line_is_given_back_and_a_second_one_of_the_name_does_without():
    first = LifeLine(NAME, DOMAIN)
    second = LifeLine(NAME, DOMAIN)
    second.close()
    assert lives(NAME, DOMAIN)
    first.close()
    first.close()
    assert not lives(NAME, DOMAIN)
    again = LifeLine(NAME, DOMAIN)
    assert lives(NAME, DOMAIN)
    again.close()


@pytest.mark.parametrize("text", ["", "1", "no number", "{own} 1", "999999999 5"])
def test_what_stands_in_the_file_is_not_believed_without_the_process_that_began_then(text):
    line = LifeLine(NAME, DOMAIN)
    path_of(NAME, DOMAIN).write_text(text.format(own=os.getpid()))
    assert not lives(NAME, DOMAIN)
    line.close()


def test_without_a_folder_nothing_is_known(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    LifeLine(NAME, DOMAIN).close()
    assert not lives(NAME, DOMAIN)
