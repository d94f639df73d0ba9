"""What the demo shows and leaves, and its films; no ROS needed."""

import io
import json
import math
import re
from types import SimpleNamespace

import av
import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("rclpy", reason="the demo's package imports ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from rdvla_ros.demo.episode import DecisionRecord, Episode, aggregate
from rdvla_ros.demo.episode_runner import EpisodeRunner, held_by_person
from rdvla_ros.demo.report import StatusLine, status_forms, table, write_summary
from rdvla_ros.demo.video import EpisodeVideo, Overlay, draw
from rdvla_ros.msg import Convergence, GateStatus
from rdvla_ros.nodes.common import conversions


def printed(what):
    out = io.StringIO()
    Console(file=out, width=200).print(what)
    return out.getvalue()


CONTROL = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|[\r\n]")  # what moves a terminal's cursor


def decision(iterations, latency_s=0.08):
    return DecisionRecord(iterations, 16, 4e-4, 6, 8, latency_s, 0.03, published=True, converged=True)


@pytest.fixture
def episodes():
    first, second = Episode(1, "transfer_cube", 0), Episode(2, "transfer_cube", 1)
    first.decisions = [decision(4), decision(8, 0.12)]
    first.note_stage(4, "transferred", True, 12.0)
    first.note_stage(4, "transferred", True, 13.0)
    first.finished = True
    second.note_stage(1, "right touches", True, 2.5)
    return [first, second]


def test_success_counts_from_the_moment_of_the_last_stage(episodes):
    result = episodes[0].result()
    assert result["success"] and result["success_after_s"] == 12.0 and result["duration_s"] == 13.0
    assert result["iterations_mean"] == 6.0 and result["latency_mean_s"] == pytest.approx(0.1)
    assert result["computation_mean_s"] == pytest.approx(0.03)


def test_an_episode_that_was_cut_short_counts_in_no_total(episodes):
    totals = aggregate(episodes)
    assert totals["episodes_finished"] == 1 and totals["successes"] == 1 and totals["stage_mean"] == 4


def test_the_table_has_a_row_per_episode_and_the_totals(episodes):
    lines = [line for line in printed(table(episodes)).splitlines() if line.strip(" ─")]
    assert len(lines) == 4
    assert "gripper reached object" in lines[0]
    assert "4 transferred" in lines[1] and "100 ms" in lines[1] and "30 ms" in lines[1]
    assert "cut short" in lines[2] and "no" in lines[2]
    assert "1 of 1" in lines[3]


def test_no_episodes_make_a_table_too():
    assert "0 of 0" in printed(table([]))


def test_the_summary_is_strict_json_even_with_nan_and_infinity(episodes, tmp_path):
    episodes[0].decisions.append(decision(3, latency_s=math.inf))
    write_summary(tmp_path / "s.json", {"seed": 0, "threshold": math.nan}, episodes, "complete", {"gate": 0})
    summary = json.loads((tmp_path / "s.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert summary["settings"]["threshold"] is None
    assert summary["episodes"][0]["latency_max_s"] == "inf"
    assert summary["versions"]["rdvla_ros"] and summary["exit_codes"] == {"gate": 0}


def test_the_status_line_names_everything(episodes):
    text = status_forms(episodes[0], 2, uncertainty=0.25, gate_mode="AUTO")[0]
    for part in (
        "episode 1/2",
        "stage 4/4 transferred",
        "iterations 8/16",
        "change 4.0e-04",
        "horizon 6/8",
        "0.25",
        "120 ms",
        "gate AUTO",
    ):
        assert part in text
    assert "no decision yet" in status_forms(episodes[1], 2, math.nan, "HOLD")[0]


@pytest.mark.parametrize(("columns", "cut"), [(200, False), (100, False), (90, False), (80, False), (60, False), (40, True)])
def test_the_status_line_fits_the_terminal_with_everything_in_it(columns, cut, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    episode = Episode(10, "insertion", 9, best_stage=3, stage_name="peg touches socket", elapsed_s=119.9)
    episode.decisions = [DecisionRecord(32, 32, 4.123e-4, 7, 8, 1.234, 1.1, published=True, converged=False)]
    out = Terminal()
    StatusLine(out).show(*status_forms(episode, 12, uncertainty=12.345, gate_mode="TAKEOVER"))
    line = CONTROL.sub("", out.getvalue()).strip()
    assert len(line) < columns
    if not cut:
        for part in ("10/12", "3/4", "32/32", "e-04", "7/8", "12.3", "1234", "TAKEOVER"):
            assert part in line


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_one_line_and_a_file_gets_a_line_now_and_then():
    for out, expected in ((Terminal(), 0), (io.StringIO(), 3)):
        now = iter(np.arange(0.0, 6.0, 0.05))
        line = StatusLine(out, clock=lambda now=now: next(now))
        for _ in range(119):
            line.show("busy")
        assert out.getvalue().count("\n") == expected
        line.say("done")
        assert out.getvalue().endswith("done\n")


def test_a_film_runs_in_real_time_although_pictures_come_late(tmp_path):
    video = EpisodeVideo(tmp_path / "a.mp4", 65, 49, 10.0)  # odd sides lose a pixel
    for stamp_s in (100.0, 100.1, 100.7, 101.0):
        video.add(np.full((49, 65, 3), 128, np.uint8), stamp_s)
    video.close()
    with av.open(str(tmp_path / "a.mp4")) as film:
        stream = film.streams.video[0]
        assert stream.average_rate == 10 and (stream.width, stream.height) == (64, 48)
        assert sum(1 for _ in film.decode(stream)) == 11


def test_a_clock_that_jumps_makes_no_endless_film(tmp_path):
    video = EpisodeVideo(tmp_path / "a.mp4", 64, 48, 10.0)
    for stamp_s in (0.0, 1e9, 5.0):
        video.add(np.zeros((48, 64, 3), np.uint8), stamp_s)
    video.close()
    with av.open(str(tmp_path / "a.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) <= 101


@pytest.mark.parametrize("size", [(480, 640), (240, 320)])
def test_the_overlay_is_readable_and_leaves_the_picture_itself(size):
    picture = np.full((*size, 3), 90, np.uint8)
    overlay = Overlay(
        iterations=[3, 9, 16], limit=16, change=1e-3, horizon=4, chunk_length=8, stage=2, gate_mode="HOLD", gate_reason="é" * 200
    )
    out = draw(picture, overlay)
    assert (picture == 90).all() and out.shape == picture.shape
    band = out[: size[0] // 8]
    assert band.max() == 255 and band.min() < 40  # bright letters on a dark band
    middle = out[size[0] // 4 : size[0] // 2]
    assert (middle == 90).all()


def test_longer_thought_draws_a_higher_bar():
    picture = np.full((480, 640, 3), 10, np.uint8)
    areas = [(draw(picture, Overlay(iterations=[n], limit=16)) != draw(picture, Overlay(limit=16))).sum() for n in (2, 8, 16)]
    assert areas[0] < areas[1] < areas[2]


def test_the_latency_counts_from_the_observation_and_not_from_the_decision():
    runner = EpisodeRunner.__new__(EpisodeRunner)  # the rest of it needs the processes
    runner._episode, runner._link = Episode(1, "insertion", 0), SimpleNamespace(uncertainty=None)
    message = Convergence(iterations=1, limit=8, change=[0.1], timing_names=["total"], timings_s=[0.04])
    message.observation_stamp, message.header.stamp = conversions.stamp(100.0), conversions.stamp(100.16)
    runner._decision(message)
    (record,) = runner._episode.decisions
    assert record.latency_s == pytest.approx(0.16, abs=1e-6) and record.computation_s == pytest.approx(0.04)


def test_row_62_a_film_that_cannot_be_written_is_given_up_and_the_episode_goes_on(tmp_path):
    runner = EpisodeRunner.__new__(EpisodeRunner)
    out = io.StringIO()
    runner._status, runner._folder, runner._video_hz = StatusLine(out), tmp_path / "gone", 10.0
    runner._video, runner._unfilmed = None, False
    runner._link = SimpleNamespace(gate=None, uncertainty=None, uncertainty_score=math.nan, gate_mode="AUTO")
    runner._episode = episode = Episode(1, "insertion", 0)
    for frame in range(2000):  # until the encoder has said no
        runner._picture(np.zeros((480, 640, 3), np.uint8), 0.1 * frame)
        if runner._unfilmed:
            break
    assert runner._unfilmed and episode.video is None
    runner._picture(np.zeros((480, 640, 3), np.uint8), 1000.0)
    assert out.getvalue().count("[ERROR] The film of episode 1 is given up") == 1


def test_what_a_person_holds_or_has_taken_over_the_demo_does_not_lift():
    assert not held_by_person(None)
    for who, persons in (("Anna", True), ("gate", False), ("policy", False), ("monitor", False), ("rdvla demo", False)):
        assert held_by_person(GateStatus(mode=GateStatus.HOLD, who=who)) == persons
    assert held_by_person(GateStatus(mode=GateStatus.TAKEOVER, who="Anna"))
    assert not held_by_person(GateStatus(mode=GateStatus.AUTO, who="Anna"))
