"""The dashboard and the real gate: what is clicked happens there, and what happens to the window does not."""

import contextlib
import signal
import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")
pytest.importorskip("PySide6.QtWidgets", reason="needs PySide6: make setup")
pytest.importorskip("pyqtgraph", reason="needs pyqtgraph: make setup")

from dashboard_rig import Window, start
from gate_rig import ROBOT, GateRig

from rdvla_ros.control.supervision.interventions import ASKS
from rdvla_ros.msg import GateStatus, Heartbeat
from rdvla_ros.nodes.common import names, qos
from rdvla_ros.srv import Hold, SetInstruction


def both(rig, window, condition, what, seconds=20.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited for {what}; status: {rig.status}; the window says: {window.text()}"
        rig.spin_for(0.02)
        window.run(0.02)
    return value


@pytest.fixture
def rig():
    with contextlib.closing(GateRig()) as rig:
        yield rig


@pytest.fixture
def window():
    with contextlib.closing(Window()) as window:
        yield window


def click_when_enabled(rig, window, button, what):
    both(rig, window, button.isEnabled, what)
    window.click(button)


def test_hold_resume_takeover_and_back_on_the_real_gate(rig, window):
    controls, arm = window.controls, ROBOT.arms[0].name
    click_when_enabled(rig, window, controls.resume, "a hold that can be lifted")
    window.click(controls.question.yes)
    both(rig, window, lambda: rig.status.mode == GateStatus.AUTO, "AUTO")
    assert rig.status.who == "Anna"
    both(rig, window, lambda: "AUTO" in window.header.badge.text(), "the window to say so")
    window.click(controls.hold)
    both(rig, window, lambda: rig.status.mode == GateStatus.HOLD, "the hold")
    assert rig.status.who == "Anna" and rig.status.reason == "hold from the dashboard"
    click_when_enabled(rig, window, controls.resume, "a hold that can be lifted")
    window.click(controls.question.yes)
    both(rig, window, lambda: rig.status.mode == GateStatus.AUTO, "AUTO")
    both(rig, window, lambda: "AUTO" in window.header.badge.text(), "the window to say so")
    click_when_enabled(rig, window, controls.takeovers[arm], "the takeover")
    both(rig, window, lambda: rig.status.mode == GateStatus.TAKEOVER, "the takeover")
    assert list(rig.status.taken_over) == [arm]
    both(rig, window, controls.takeovers[arm].isChecked, "the window to show it")
    window.click(controls.takeovers[arm])
    both(rig, window, lambda: rig.status.mode == GateStatus.HOLD, "the arms to be given back")
    assert "gives the arms back" in rig.status.reason


def test_another_instruction_ends_an_ask_of_the_robot_once_it_is_confirmed(rig, window):
    told = []

    def take(request, response):
        told.append((request.instruction, request.who))
        response.accepted, response.instruction, response.message = True, request.instruction, "The next decision follows it."
        return response

    rig.node.create_service(SetInstruction, f"/{names.POLICY_SET_INSTRUCTION}", take)
    rig.go()
    rig.call(Hold, reason=f"{ASKS} while moving left: the iterations are unusually high", who=names.MONITOR)
    both(rig, window, lambda: ASKS in window.text() and window.controls.resume.isEnabled(), "the question to be shown")
    line = window.controls.instruction
    both(rig, window, window.station.acts._instruct.service_is_ready, "the policy's service")
    line.edit.setText("sort the blocks")
    window.click(line.send)
    both(rig, window, lambda: told, "the instruction")
    assert told == [("sort the blocks", "Anna")] and rig.status.mode == GateStatus.HOLD
    both(rig, window, window.controls.question.isVisible, "the resume to be offered")
    both(rig, window, lambda: "'sort the blocks' ✓" in window.text(), "the policy's answer")
    window.click(window.controls.question.yes)
    both(rig, window, lambda: rig.status.mode == GateStatus.AUTO, "AUTO")
    assert rig.status.who == "Anna"


def test_the_gates_causes_are_shown_word_for_word(rig, window):
    both(rig, window, window.controls.resume.isEnabled, "a hold that can be lifted")
    rig.policy.causes = ["the camera 'top' is dark"]
    both(rig, window, lambda: "the camera 'top' is dark" in window.controls.obstacles.text(), "the cause")
    assert not window.controls.resume.isEnabled()


def test_a_gate_may_go_and_come_back_while_the_window_stays(rig, window):
    both(rig, window, lambda: "HOLD" in window.header.badge.text(), "the gate to be seen")
    rig.executor.remove_node(rig.gate)
    rig.gate.destroy_node()
    both(rig, window, lambda: "GATE DEAD" in window.header.badge.text(), "the gate to be missed")
    rig.gate = rig.make_gate()
    both(rig, window, lambda: "HOLD 1" in window.header.badge.text(), "the new gate")
    click_when_enabled(rig, window, window.controls.resume, "a hold that can be lifted")
    window.click(window.controls.question.yes)
    both(rig, window, lambda: rig.status.mode == GateStatus.AUTO, "AUTO")


def test_a_gate_that_asks_for_the_operator_holds_when_the_window_hangs():
    with contextlib.ExitStack() as stack:
        rig = stack.enter_context(contextlib.closing(GateRig(operator="heartbeat", wait=False)))
        window = stack.enter_context(contextlib.closing(Window(heartbeat=names.OPERATOR_HEARTBEAT)))
        click_when_enabled(rig, window, window.controls.resume, "a hold that can be lifted")
        window.click(window.controls.question.yes)
        both(rig, window, lambda: rig.status.mode == GateStatus.AUTO, "AUTO")
        rig.until(lambda: rig.status.mode == GateStatus.HOLD, "the hold once the window does not run any more")
        assert "operator" in rig.status.reason


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=["killed", "stopped", "ended"])
def test_a_window_that_goes_holds_only_where_the_gate_asks_for_it(number, tmp_path):
    with contextlib.closing(GateRig(operator="heartbeat", wait=False)) as rig:
        beats = []
        rig.node.create_subscription(Heartbeat, names.OPERATOR_HEARTBEAT, beats.append, qos.HEARTBEAT)
        words = ["--heartbeat", "--screenshot", str(tmp_path / "x.png"), "--after", "120"]
        process = start(["-m", "rdvla_ros.cli", "dashboard"], *words)
        try:
            rig.until(lambda: beats, "the window's heartbeat", 60.0)
            rig.until(lambda: rig.status and not rig.status.causes, "a gate with nothing in the way")
            rig.go()
            process.send_signal(number)
            rig.until(lambda: rig.status.mode == GateStatus.HOLD, "the hold")
            assert "operator" in rig.status.reason
        finally:
            process.kill()
            process.wait()


def test_without_that_a_window_that_goes_changes_nothing(rig):
    window = Window()
    both(rig, window, lambda: "HOLD" in window.header.badge.text(), "the gate to be seen")
    rig.go()
    hold = rig.status.hold_id
    window.close()
    rig.spin_for(1.0)
    assert rig.status.mode == GateStatus.AUTO and rig.status.hold_id == hold
