"""Messages, requests and parameters as nobody should send them, to the callbacks of the real nodes.

Whatever comes: nothing raises, nothing waits, no controller is sent what exceeds a limit, and once everything is well again the
operator can resume. RDVLA_FUZZ=100000 makes more cases.
"""

import os
import re
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

import fuzz_messages as messages
import worker_cases
from fuzz_messages import NUMBERS, SPOILS, TEXTS, whole
from fuzz_rig import FuzzedGate, FuzzedPolicy
from gate_rig import HOME, LIMITS, ROBOT, motion

from rdvla_ros.control.supervision.heartbeat import WITHIN_S
from rdvla_ros.control.supervision.modes import Mode
from rdvla_ros.msg import GateStatus
from rdvla_ros.nodes.common import conversions, names
from rdvla_ros.nodes.gate.parameters import GateParameters
from rdvla_ros.nodes.policy.parameters import PolicyParameters
from rdvla_ros.nodes.policy.worker.protocol import WorkerLost
from rdvla_ros.srv import SetInstruction
from rdvla_ros.types import ObservationError

CASES = int(os.environ.get("RDVLA_FUZZ", 10000))
STEPS = 40  # of one sequence
GATE = max(1, CASES * 6 // 10 // STEPS)  # sequences
ARMS = {arm.name: arm for arm in ROBOT.arms}
KINDS = ("motion", "motion", "motion", "joints", "controller", "beat", "joy", "hold", "resume", "set_mode", "parameter", "time",
         "clock", "tick", "go", "go", "go", "rest")  # fmt: skip
VALUES = st.one_of(NUMBERS, TEXTS, st.booleans(), st.integers(-(1 << 63), (1 << 63) - 1), st.lists(NUMBERS, max_size=3))
SEQUENCES = st.lists(
    st.tuples(st.sampled_from(KINDS), st.lists(SPOILS, max_size=2), SPOILS, VALUES), min_size=STEPS, max_size=STEPS
)
QUICK = {  # a failure is not made smaller: that takes minutes; print_blob says how to repeat it
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "database": None,
    "phases": [Phase.explicit, Phase.generate],
    "print_blob": True,
}


@pytest.fixture(scope="module")
def gate():
    gate = FuzzedGate()
    yield gate
    print(gate.tally)
    gate.close()


def send_motion(gate, spoils, choice):
    """Both arms' parts of a motion from where the arms are, spoiled; from either source, sometimes of one arm only."""
    back = -1.0 if (gate.reference() > HOME + 0.2).any() else 1.0
    start = np.clip(gate.reference(), LIMITS.lower, LIMITS.upper)  # a false report before a stop may have put a joint beyond
    rest = motion(start, change=back * (0.02 + 0.1 * (choice.a % 5)), rows=2 + choice.b % 5)
    stamp = conversions.stamp(gate.clock.ros_s)
    for index, arm in enumerate(ROBOT.arms):
        message = conversions.trajectory_message(rest.select(arm.joint_names), stamp)
        for spoil in spoils:
            if spoil.b % 3 != index:
                messages.spoil_motion(message, spoil)
        if choice.how < 14 or index == choice.a % 2:
            gate.on_motion(Mode.TAKEOVER if choice.how in (1, 2) else Mode.AUTO, arm.name, message)


def do(gate, kind, spoils, choice, value):
    arm = ROBOT.arms[choice.a % len(ROBOT.arms)]
    now_s = gate.clock.ros_s
    if kind == "motion":
        send_motion(gate, spoils, choice)
    elif kind == "joints":
        message = messages.joints(arm, gate.desired(arm).position, now_s)
        for spoil in spoils:
            messages.spoil_joints(message, spoil)
        gate.on_joints(arm.joint_states_topic, message)
    elif kind == "controller":
        message = messages.controller_state(arm, gate.desired(arm), now_s, gate.outputs[arm.name].model.accepted)
        for spoil in spoils:
            messages.spoil_controller(message, spoil)
        gate.on_controller(arm, message)
    elif kind == "beat":
        gate.beats += 1
        message = messages.beat(gate.beats, now_s)
        for spoil in spoils:
            messages.spoil_beat(message, spoil)
        gate.node._watch.heart._on_heard(names.POLICY_HEARTBEAT, message)
    elif kind == "joy":
        message = messages.joy(choice.b % 2, now_s)
        for spoil in spoils:
            messages.spoil_joy(message, spoil)
        gate.on_joy(message)
    elif kind == "hold":
        assert gate.call("hold", reason=choice.text, who=choice.text).accepted and gate.state.mode in (Mode.HOLD, Mode.PAUSE)
    elif kind == "resume":
        number = gate.state.hold_id if choice.how % 2 else whole(choice.number, 0, (1 << 64) - 1)
        gate.call("resume", hold_id=number, who=choice.text)
    elif kind == "set_mode":
        arms = [[], [arm.name], [choice.text]][choice.b % 3]
        gate.call("set_mode", mode=choice.how % 6, who=choice.text, reason=choice.text, arms=arms)
    elif kind == "parameter":
        known = [field.name for field in fields(GateParameters)]
        gate.parameter(known[choice.a % len(known)] if choice.how else "use_sim_tim", value)
    elif kind == "go":
        go(gate)
    elif kind == "rest":
        gate.run(1.0, period_s=0.05)
    elif kind == "time":
        gate.clock.steady_s += (choice.a % 400) / 1000.0
    elif kind == "clock":
        gate.clock.ahead_s = 1.7e9 + (choice.a % 2000 - 1000) / 100.0 * (choice.how > 11)
    gate.node._watch.watch(gate.clock.steady_s)
    if kind == "tick":
        gate.tick()


def go(gate):
    """The button is let go and pressed again, and the hold in force is lifted."""
    gate.run(0.02, pressed=False)
    gate.run(0.02)
    return gate.call("resume", hold_id=gate.state.hold_id, who="test").accepted


def recover(gate):
    """Everything as it should be: once nobody beats twice any more, the operator can resume and a motion passes."""
    gate.clock.ahead_s = 1.7e9
    gate.call("hold", reason="a test", who="test")
    gate.by_hand(HOME)
    gate.run(WITHIN_S + 0.2, period_s=0.2)
    assert go(gate), gate.state
    before = {name: output.count for name, output in gate.outputs.items()}
    send_motion(gate, [], messages.Spoil(0, 0, 0, 0.0, ""))
    assert {name: output.count for name, output in gate.outputs.items()} == {name: n + 1 for name, n in before.items()}
    assert gate.state.mode is Mode.AUTO


@settings(max_examples=GATE, **QUICK)
@given(steps=SEQUENCES)
def test_whatever_comes_the_gate_lives_sends_nothing_beyond_a_limit_and_can_be_resumed(gate, steps):
    recover(gate)
    parameters = gate.node._values
    for step in steps:
        do(gate, *step)
        gate.tally["cases"] = gate.tally.get("cases", 0) + 1
        gate.tally[gate.state.mode.name] = gate.tally.get(gate.state.mode.name, 0) + 1
        assert gate.exceptions() == 0, (step, gate.node._authority.last_exception, gate.node._side.guard.last)
        assert not gate.broken, (step, gate.broken)
    assert gate.node._values is parameters
    assert np.isfinite(gate.reference()).all()


@pytest.mark.parametrize("jump_s", [0.3, 5.0, -0.3, -5.0])
def test_row_22_after_a_step_of_the_clock_the_gate_stops_arms_that_move(gate, jump_s):
    """From what the controllers, which have the same clock, say that they command after the step."""
    recover(gate)
    gate.run(0.3)
    before = {name: output.count for name, output in gate.outputs.items()}
    gate.clock.ahead_s += jump_s
    gate.run(0.1)
    assert gate.state.mode is Mode.HOLD and "jumped by" in gate.state.reason
    assert {name: output.count for name, output in gate.outputs.items()} == {name: n + 1 for name, n in before.items()}
    gate.run(1.0)
    rest = gate.reference()
    gate.run(3.0)
    assert (gate.reference() == rest).all() and not gate.broken and gate.exceptions() == 0


def test_row_24_a_gate_that_did_not_run_holds_when_it_does_again(gate):
    recover(gate)
    gate.run(0.3)
    gate.clock.steady_s += gate.node._values.starved_s + 0.05
    gate.node._watch.watch(gate.clock.steady_s)
    assert gate.state.mode is Mode.HOLD and "did not run for" in gate.state.reason
    gate.run(1.0)
    assert not gate.broken and gate.exceptions() == 0


@pytest.mark.parametrize(("joint", "position", "velocity"), [(6, 0.0, 0.0), (0, None, 2.3), (2, 1.77, 0.0)])
def test_row_43_a_false_report_before_a_hold_is_no_failure_of_the_gate(gate, joint, position, velocity):
    """Reports just inside what can be believed: the stop begins from them, or they are not believed."""
    recover(gate)
    gate.call("hold", reason="a test", who="test")
    gate.run(2.0)
    assert go(gate), "what was sent before is forgotten: only the reports say where the arms are"
    arm, where = ROBOT.arms[0], gate.reference()
    message = messages.controller_state(arm, gate.desired(arm), gate.clock.ros_s, gate.outputs[arm.name].model.accepted)
    message.reference.positions[joint] = message.reference.positions[joint] if position is None else position
    message.reference.velocities[joint] = velocity
    gate.clock.steady_s += 0.01
    message.header.stamp = conversions.stamp(gate.clock.ros_s)
    gate.on_controller(arm, message)
    assert gate.call("hold", reason="a test", who="test").accepted
    gate.run(1.0)
    assert gate.exceptions() == 0 and not gate.broken
    assert position is not None or np.abs(gate.reference() - where).max() < 1e-3, "a resting joint is not thrown"


POLICY = max(1, CASES * 4 // 10 // STEPS)
POLICY_KINDS = ("decision", "decision", "decision", "image", "joints", "controller", "status", "beat", "instruction", "parameter",
                "lifecycle", "time", "clock", "worker", "go")  # fmt: skip
POLICY_SEQUENCES = st.lists(
    st.tuples(st.sampled_from(POLICY_KINDS), st.lists(SPOILS, max_size=2), SPOILS, VALUES), min_size=STEPS, max_size=STEPS
)
SURPRISE = re.compile(r"\w+ failed(:| on synchronised inputs)|refused: .*: [A-Z]\w*(Error|Exception): ")


@pytest.fixture(scope="module")
def policy():
    policy = FuzzedPolicy()
    yield policy
    print(policy.tally)
    policy.close()


def do_policy(policy, kind, spoils, choice, value):
    node, arm = policy.node, ROBOT.arms[choice.a % len(ROBOT.arms)]
    guarded = node._guard.wrap
    if kind == "decision":
        node.decider.next = lambda observation: spoiled(observation, spoils)
        if node._configured:
            policy.run(0.1)
        node.decider.next = worker_cases.calm
    elif kind == "image" and node._configured:
        camera = ROBOT.cameras[choice.b % len(ROBOT.cameras)]
        message = policy.image(camera)
        for spoil in spoils:
            messages.spoil_image(message, spoil)
        policy.sources[camera.topic].callback(message)
    elif kind == "joints" and node._configured:
        message = messages.joints(arm, policy.desired(arm).position, policy.clock.ros_s)
        for spoil in spoils:
            messages.spoil_joints(message, spoil)
        policy.sources[arm.joint_states_topic].callback(message)
    elif kind == "controller" and node._configured:
        message = messages.controller_state(arm, policy.desired(arm), policy.clock.ros_s, 0)
        for spoil in spoils:
            messages.spoil_controller(message, spoil)
        guarded(node._arms._on_state)(arm, message)
    elif kind == "status" and node._configured:
        policy.status(choice.how % 6, hold_id=choice.b, reason=choice.text, refused=choice.a % 5, last_refusal=choice.text)
    elif kind == "beat":
        policy.beats += 1
        message = messages.beat(policy.beats, policy.clock.ros_s)
        for spoil in spoils:
            messages.spoil_beat(message, spoil)
        node._heart._on_heard(names.GATE_HEARTBEAT, message)
    elif kind == "instruction":
        request = SetInstruction.Request(instruction=choice.text)
        answer = guarded(node._set_instruction)(request, SetInstruction.Response())
        assert type(answer) is SetInstruction.Response and (answer.accepted or answer.message)
    elif kind == "parameter":
        known = [field.name for field in fields(PolicyParameters) if field.name not in ("robot", "checkpoint")]
        policy.parameter(known[choice.b % len(known)] if choice.how else "gait", value)
    elif kind == "lifecycle":
        (node.trigger_deactivate if node._active else lambda: None)()
    elif kind == "time":
        policy.clock.steady_s += (choice.a % 400) / 1000.0
    elif kind == "clock":
        policy.clock.ahead_s = 1.7e9 + (choice.a % 2000 - 1000) / 100.0 * (choice.how > 11)
    elif kind == "worker":
        node.decider.why, node.decider.lost = choice.text * (choice.how % 2), choice.text * (choice.how % 3 == 0)
    elif kind == "go":
        policy_go(policy)
    policy.work()


def spoiled(observation, spoils):
    decision = worker_cases.calm(observation)
    for spoil in spoils:
        if spoil.how == 15:
            return [WorkerLost("gone"), ObservationError("no"), RuntimeError("a bug")][spoil.a % 3]
        decision = messages.spoiled_decision(decision, spoil)
    return decision


def policy_go(policy):
    """Active, in AUTO, everything well."""
    node = policy.node
    node.decider.next, node.decider.why, node.decider.lost = worker_cases.calm, "", ""
    if not node._active:
        policy.configure()
        node.decider.next = worker_cases.calm
    policy.status(GateStatus.HOLD, hold_id=policy.beats + 1)
    policy.run(0.1)


def policy_recover(policy):
    policy.clock.ahead_s = 1.7e9
    policy.by_hand(HOME)
    for name in ("instruction", "publish_unconverged", "while_held", "held_period_s", "deadline_s"):
        policy.parameter(name, getattr(PolicyParameters(instruction="calm"), name))
    if policy.node._configured:  # beats whose numbers went back are two gates until then
        policy.run(WITHIN_S + 0.1)
    policy_go(policy)
    count = policy.sent()
    for _ in range(3):  # after a start the streams' delays have to become known first
        policy.run(2.0)
        if policy.sent() >= count + 2:
            break
    assert policy.sent() >= count + 2, policy.node._halts.why_not() or policy.complaints[-5:]


@settings(max_examples=POLICY, **QUICK)
@given(steps=POLICY_SEQUENCES)
def test_whatever_comes_the_policy_lives_sends_nothing_beyond_a_limit_and_goes_on(policy, steps):
    policy_recover(policy)
    for step in steps:
        policy.complaints.clear()
        do_policy(policy, *step)
        policy.tally["cases"] = policy.tally.get("cases", 0) + 1
        assert not [text for text in policy.complaints if SURPRISE.search(text)]
        assert not policy.broken, (step, policy.broken)


@pytest.mark.parametrize("which", ["gate", "policy"])
def test_after_beats_of_two_senders_there_is_a_way_back(gate, policy, which):
    """Numbers that go back and forth are two senders, which hold the arms; once they are one again, a resume helps."""
    node, back = {"gate": (gate, recover), "policy": (policy, policy_recover)}[which]
    back(node)
    node.beats += 100
    heart = node.node._watch.heart if which == "gate" else node.node._heart
    topic = names.POLICY_HEARTBEAT if which == "gate" else names.GATE_HEARTBEAT
    for count in (50, 40, 30, 20):
        heart._on_heard(topic, messages.beat(count, node.clock.ros_s))
    assert "More than one sender" in heart.peers[topic].lost(node.clock.steady_s)
    back(node)


def fail(*_):
    raise RuntimeError("a bug")


@pytest.mark.parametrize("where", ["on_matched", "take_result"])
def test_row_60_an_exception_in_a_callback_of_the_policy_is_counted_and_holds_until_a_resume(policy, monkeypatch, where):
    policy_recover(policy)
    node = policy.node
    before = node._guard.exceptions
    with monkeypatch.context() as patched:
        patched.setattr(node._deciding, "consider" if where == "on_matched" else where, fail)
        policy.run(0.2)
        assert node._guard.exceptions > before and "a bug" in node._halts.holding
        assert "a bug" in node._heart.hold, "the gate is told"
        count = policy.sent()
        policy.run(0.5)
    policy.run(1.0)
    assert policy.sent() == count and node._halts.holding
    policy_go(policy)
    policy.run(2.0)
    assert policy.sent() > count
