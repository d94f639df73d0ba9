"""Faults around the operator: the gate over DDS, its services called as nobody should, its signs of presence lost."""

import contextlib
import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from gate_rig import HOME, MOVES, ROBOT, SLICES, Beats, GateRig, motion
from sensor_msgs.msg import Joy

from rdvla_ros.msg import GateStatus
from rdvla_ros.nodes.common import qos
from rdvla_ros.srv import Hold, Resume, SetMode
from rdvla_ros.types import RdvlaError

LEFT, RIGHT = (arm.name for arm in ROBOT.arms)


@pytest.fixture
def rig():
    with contextlib.closing(GateRig()) as rig:
        yield rig


def counts(rig):
    return {arm: len(messages) for arm, messages in rig.received.items()}


def test_row_48_three_hundred_holds_at_a_hundred_a_second_are_all_answered_and_change_one_thing(rig, capfd):
    rig.go()
    capfd.readouterr()
    client, futures, begin = rig.clients[Hold], [], time.monotonic()
    while len(futures) < 300:
        if time.monotonic() >= begin + 0.01 * len(futures):
            futures.append(client.call_async(Hold.Request(reason=f"call {len(futures)}", who="test")))
        rig.executor.spin_once(timeout_sec=0.002)
    rig.until(lambda: all(f.done() for f in futures), "the answers")
    answers = [f.result() for f in futures]
    assert {answer.hold_id for answer in answers} == {2} and all(answer.accepted for answer in answers)
    rig.until(lambda: rig.status.mode == GateStatus.HOLD, "the status")
    assert "call 0" in rig.status.reason
    assert sum("Hold 2 begins" in line for line in capfd.readouterr().err.splitlines()) == 1  # one line in the log
    rig.until(lambda: set(counts(rig).values()) == {1}, "the one stop")
    assert rig.call(Hold, reason="and now", who="test").accepted  # nothing is in a queue before it


def at_start(rig):
    pass


def moving(rig):
    rig.go()
    rig.pass_motion(motion(change=0.3))


def taken_over(rig):
    rig.go()
    assert rig.call(SetMode, mode=GateStatus.TAKEOVER, who="test", reason="").accepted


def pausing(rig):
    rig.go()
    rig.policy.causes = ["Nothing has come from camera 'top'."]
    rig.until(lambda: rig.status.mode == GateStatus.PAUSE, "a pause")


def without_a_robot(rig):
    rig.send_states = rig.send_reports = False
    rig.until(lambda: rig.status.causes, "causes")


def ending(rig):
    rig.go()
    rig.gate.close()


@pytest.mark.parametrize("state", [at_start, moving, taken_over, pausing, without_a_robot, ending], ids=lambda f: f.__name__)
def test_row_49_a_hold_is_accepted_in_every_state_and_wins_over_every_later_chunk(rig, state):
    state(rig)
    answer = rig.call(Hold, reason="a hand in the way", who="operator")
    assert answer.accepted and answer.hold_id >= 1
    assert rig.held().hold_id == answer.hold_id
    rig.spin_for(0.3)
    count, refused = counts(rig), rig.status.refused
    for source in ("/policy", "/teleop"):
        rig.send(motion(rig.positions), source=source)
    rig.until(lambda: rig.status.refused > refused, "the policy's chunk to be refused")
    rig.spin_for(0.2)
    assert counts(rig) == count and rig.status.mode == GateStatus.HOLD


@pytest.mark.parametrize("first", [Hold, Resume], ids=["hold first", "resume first"])
def test_row_50_a_hold_and_a_resume_at_one_moment_end_in_a_hold(rig, first):
    """Both requests are on the wire before either is answered; the resume names the hold in force."""
    for _ in range(15):
        number = rig.until(lambda: rig.status.mode == GateStatus.HOLD and rig.status.hold_id, "a hold")
        requests = [(Hold, {"reason": "now"}), (Resume, {"hold_id": number})]
        futures = {
            kind: rig.clients[kind].call_async(kind.Request(**fields, who="test"))
            for kind, fields in (requests if first is Hold else reversed(requests))
        }
        rig.until(lambda futures=futures: all(f.done() for f in futures.values()), "both answers")
        assert futures[Hold].result().accepted
        assert rig.call(Hold, reason="look", who="test").hold_id == futures[Hold].result().hold_id, "it was lifted"
        time.sleep(0.1)  # a resume that comes later than a moment after a repeated hold may lift it


def test_row_53_a_station_whose_heartbeat_ends_holds_and_none_is_locked():
    with contextlib.closing(GateRig(wait=False, operator="heartbeat", operator_timeout_s=1.0)) as rig:
        cause = "No heartbeat of /operator has come yet."
        rig.until(lambda: rig.status and list(rig.status.causes) == [cause], "the one cause")
        assert not rig.call(Resume, hold_id=1, who="test").accepted
        station = Beats(rig.node, "/operator/heartbeat")
        rig.until(lambda: not rig.status.causes, "the operator")
        rig.go()
        rig.pass_motion(motion(change=0.3))
        station.grows = False  # a relay that repeats the last message is no operator
        assert "/operator" in rig.held().reason
        rig.until(lambda: min(counts(rig).values()) == 2, "the stop")
        assert not rig.call(Resume, hold_id=rig.status.hold_id, who="test").accepted
        station.grows = True
        rig.until(lambda: not rig.status.causes, "the operator")
        assert rig.status.mode == GateStatus.HOLD  # coming back lifts nothing
        station.close()


def test_row_53_no_time_out_is_refused_at_start():
    with contextlib.closing(GateRig(wait=False, gate=False)) as rig:
        for name, value in (("operator_timeout_s", 0.0), ("operator_timeout_s", 60.0), ("operator", "on")):
            with pytest.raises(RdvlaError, match=f"{name}: expected"):
                rig.make_gate(**{name: value})


class Joystick:
    """Sends at 50 Hz, as a driver with autorepeat does."""

    def __init__(self, rig, topic="/operator/heartbeat"):
        self.pressed, self.repeats, self.alive = False, False, True
        self._rig, self._last = rig, None
        self._publisher = rig.node.create_publisher(Joy, topic, qos.HEARTBEAT)
        rig.node.create_timer(0.02, self.send)

    def send(self):
        if not self.alive:
            return
        if not self.repeats or self._last is None:
            self._last = Joy(buttons=[int(self.pressed)])
            self._last.header.stamp = self._rig.node.get_clock().now().to_msg()
        self._publisher.publish(self._last)


def unplugged(stick):
    stick.alive = False


def repeats_its_last_message(stick):
    stick.repeats = True


def let_go(stick):
    stick.pressed = False


@pytest.mark.parametrize("fault", [unplugged, repeats_its_last_message, let_go], ids=lambda f: f.__name__)
def test_row_54_a_joystick_in_doubt_holds_and_a_button_that_stayed_pressed_starts_nothing(fault):
    with contextlib.closing(GateRig(wait=False, operator="joy", operator_timeout_s=1.0)) as rig:
        stick = Joystick(rig)
        stick.pressed = True
        rig.until(lambda: rig.status and any("since before the stop" in c for c in rig.status.causes), "a stuck button")
        stick.pressed = False
        rig.until(lambda: any("is not pressed" in c for c in rig.status.causes), "nobody")
        stick.pressed = True
        rig.until(lambda: not rig.status.causes, "an operator")
        rig.go()
        fault(stick)
        assert "joystick" in rig.held().reason
        stick.alive, stick.repeats, stick.pressed = True, False, True
        rig.until(lambda: list(rig.status.causes), "a cause")
        if fault is not let_go:
            rig.until(lambda: any("since before the stop" in c for c in rig.status.causes), "the stuck button to be told")
        assert not rig.call(Resume, hold_id=rig.status.hold_id, who="test").accepted or fault is let_go


def test_row_55_a_takeover_of_one_arm_masks_the_policy_on_both_and_ends_only_by_a_resume(rig):
    rig.go()
    answer = rig.call(SetMode, mode=GateStatus.TAKEOVER, who="operator", reason="", arms=[RIGHT])
    assert answer.accepted, answer.message
    rig.until(lambda: list(rig.status.taken_over) == [RIGHT], "the takeover")
    rig.spin_for(0.3)
    before = counts(rig)
    rig.send(motion())  # the policy's: neither arm moves
    rig.until(lambda: rig.status.refused == 1, "the refusal")
    rig.send(motion(), source="/teleop", arms=[LEFT])  # not taken over: it rests
    rig.pass_motion(motion(change=0.05), source="/teleop", arms=[RIGHT])
    rig.spin_for(0.3)
    assert counts(rig)[LEFT] == before[LEFT]
    assert abs(rig.positions[SLICES[LEFT]] - HOME[SLICES[LEFT]]).max() < 1e-6
    assert not rig.call(SetMode, mode=GateStatus.AUTO, who="operator", reason="").accepted
    assert rig.call(SetMode, mode=GateStatus.HOLD, who="operator", reason="back").accepted
    rig.held()
    rig.spin_for(0.7)
    rig.send(motion(rig.positions, 0.02 * MOVES.max()))
    rig.until(lambda: rig.status.refused == 2, "the refusal")
    rig.go()
    rig.pass_motion(motion(rig.positions, 0.02))
