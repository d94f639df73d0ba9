"""The page about a run: everything in one file, text of others never as HTML, also of a run that lacks much."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
import run_cases
from run_cases import BEGIN_S, ROBOT_FILE, write_run

from rdvla_ros import cli
from rdvla_ros.runs import RunError, plots, report
from rdvla_ros.runs.reader import Run
from rdvla_ros.runs.schemas import message_row
from rdvla_ros.runs.writer import RunWriter


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run <1>"
    writer = write_run(folder, close=False)
    for tick in range(60):
        stage = min(4, tick // 10)
        values = dict(task="transfer_cube", seed=7, episode=1, stage=stage, best_stage=stage, stage_name="held", reached=True)
        message = run_cases.message(BEGIN_S + tick / 10, **values, elapsed_s=tick / 10)
        writer.row("task", message_row("task", message, BEGIN_S + tick / 10))
    late = run_cases.gate(BEGIN_S + 5.0, run_cases.TAKEOVER, BEGIN_S + 4.5, refused=3, last_refusal="too <i>fast</i>")
    writer.row("gate", message_row("gate", late, BEGIN_S + 5.0))
    writer.close()
    return Run(folder)


class Checker(HTMLParser):
    VOID = {"meta", "img", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.tags, self.text = [], [], [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(text):
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    return checker


def test_the_page_needs_nothing_from_outside_and_says_what_happened(run):
    text = report.page(run)
    found = read(text)
    assert found.addresses and all(address.startswith("data:image/") for address in found.addresses)
    assert not re.search(r"https?://|@import|<script|<link", text)
    assert found.tags.count("img") == 6 + 3 * plots.THUMBNAILS
    said = ["run <1>", "12decisions", "1 of 1episodes with success", "success after 4.0 s", "Ada", "start_mode", "1alarms"]
    for words in [*said, "a cable <b>touches</b> the table", "too <i>fast</i>"]:
        assert words in found.text, words
    assert "<b>touches" not in text and "<i>fast" not in text


def test_modes_and_refusals_are_those_of_the_gate(run):
    spans = plots.mode_spans(run)
    assert [(mode, round(begin, 1), round(end, 1)) for mode, begin, end, _ in spans] == [
        ("AUTO", 0.0, 2.0), ("HOLD", 2.0, 3.0), ("AUTO", 3.0, 4.5), ("TAKEOVER", 4.5, 6.0)
    ]  # fmt: skip
    assert plots.refusals(run)[0][1:] == (2, "too <i>fast</i>")


def test_a_run_in_which_little_was_heard_has_a_page_too(tmp_path):
    writer = RunWriter(tmp_path / "run", ROBOT_FILE)
    arm = run_cases.ROBOT.arms[0]
    writer.row("joints", message_row("joints", run_cases.joints(BEGIN_S, arm), BEGIN_S, topic=arm.joint_states_topic))
    writer.flush()
    found = read(report.page(Run(tmp_path / "run")))
    assert "Nothing was recorded of: decisions" in found.text and "Not complete: cut" in found.text


def test_odd_numbers_are_drawn_or_left_out(tmp_path):
    writer = write_run(tmp_path / "run", length_s=1.0, close=False)
    nan, inf = float("nan"), float("inf")
    for number, trace in enumerate(([], [nan], [inf, inf], [-1.0, 0.0])):
        decision = run_cases.decision(BEGIN_S + 0.2 * number, 9, change=trace, threshold=nan, stop_reason=250, timing_names=["x"],
                                      timings_s=[])  # fmt: skip
        writer.row("decisions", message_row("decisions", decision, BEGIN_S))
        score = run_cases.uncertainty(BEGIN_S + 0.2 * number, 9, inf)
        writer.row("uncertainty", message_row("uncertainty", score, BEGIN_S))
    odd = run_cases.message(BEGIN_S + 0.9, mode=77, hold_id=9, reason="?", who="", refused=1)  # and fields that are not there
    writer.row("gate", message_row("gate", odd, BEGIN_S + 0.9))
    writer.close()
    assert "mode 77" in read(report.page(Run(tmp_path / "run"))).text


def test_the_command_writes_the_page_beside_the_run(run, capsys):
    assert cli.main(["report", str(run.folder)]) == 0
    assert (run.folder / "report.html").stat().st_size > 50_000 and "report.html" in capsys.readouterr().out


def test_a_run_without_a_single_message_is_named(tmp_path):
    RunWriter(tmp_path / "run", ROBOT_FILE).close()
    with pytest.raises(RunError, match="nothing was recorded"):
        report.page(Run(tmp_path / "run"))
