"""Faults of what decides: the policy node over DDS, whose decision process does as the test says. One test per row."""

import contextlib
import dataclasses
import json
import os
import shutil
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("rdvla_ros.msg", reason="needs the built messages: make setup")

from gate_rig import LIMITS
from lifecycle_msgs.msg import Transition
from policy_rig import HOME, INSTRUCTION, ROBOT, ROBOT_FILE, FakeGate

from rdvla_ros.control.motion.horizon import make_horizon
from rdvla_ros.control.motion.limits import check_trajectory
from rdvla_ros.control.supervision.output_quality import ConstantOutput
from rdvla_ros.control.supervision.uncertainty import Settling, UncertaintyMonitor, score
from rdvla_ros.nodes.common import conversions
from rdvla_ros.nodes.policy.parameters import PolicyParameters
from rdvla_ros.nodes.policy.worker import main as worker_process
from rdvla_ros.nodes.policy.worker.client import ProcessWorker
from rdvla_ros.nodes.policy.worker.loading import LOAD, settings
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import Observation, StopReason

QUICK = {"healthy_s": 0.3, "longest_pause_s": 30.0}


def again(rig):
    """An operator starts it anew, and the decisions are calm."""
    rig.instruct("calm")
    assert rig.change(Transition.TRANSITION_DEACTIVATE) and rig.change(Transition.TRANSITION_ACTIVATE)
    return rig.moving()


def worker_pid(rig):
    return rig.policy._keeper._worker.process.pid


def replaced(rig, process):
    """Another decision process is ready. Between the two there is none, and the old one is ready until its end is noticed."""
    keeper = rig.policy._keeper
    return keeper._worker is not None and keeper._worker.process.pid != process and not keeper.why_not()


def alive(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def motions(rig):
    """All that was sent, both arms in one, as (time base, motion)."""
    for left, right in zip(*rig.sent.values(), strict=False):
        assert left.header.stamp == right.header.stamp, "both arms or none"
        parts = [conversions.trajectory(message) for message in (left, right)]
        names = parts[0].joint_names + parts[1].joint_names
        joined = [np.hstack([getattr(part, field) for part in parts]) for field in ("positions", "velocities")]
        yield (
            conversions.seconds(left.header.stamp),
            dataclasses.replace(parts[0], joint_names=names, positions=joined[0], velocities=joined[1]),
        )


def test_row_28_one_value_that_is_not_finite_drops_the_chunk_of_both_arms_and_holds(make_rig):
    rig = make_rig().moving()
    rig.instruct("one nan")
    assert rig.holds("The decision is not finite")
    assert len(rig.sent["left"]) == len(rig.sent["right"])
    for _, motion in motions(rig):
        assert np.isfinite(motion.positions).all() and np.isfinite(motion.velocities).all()
    again(rig)


@pytest.mark.parametrize(
    ("case", "reason", "words"),
    [
        ("not finite", StopReason.NON_FINITE, "The decision is not finite"),
        ("diverged", StopReason.DIVERGED, "further and further"),
    ],
)
def test_row_29_a_decision_that_broke_down_holds_and_is_never_certain(make_rig, case, reason, words):
    rig = make_rig().moving()
    rig.instruct(case)
    assert rig.holds(words)
    assert rig.until(lambda: rig.decisions[-1].stop_reason == reason)
    told = rig.decisions[-1]
    assert not told.published and not told.converged and np.isinf(told.change[-1])
    seen = Settling(1, told.iterations, told.limit, reason, False, told.threshold, tuple(told.change))
    assert score(seen, default_threshold=1e-3) == np.inf and UncertaintyMonitor().add(seen).alarm


def test_row_29_a_latent_that_is_not_finite_ends_the_iterations():
    import torch
    from policy_cases import observation, tiny_checkpoint

    from rdvla_ros.model.halting import ActionChange
    from rdvla_ros.model.policy import Policy

    policy = Policy(tiny_checkpoint(), halting=ActionChange(1e-9, max_iterations=12))
    with torch.no_grad():
        policy.model.head.output.bias.fill_(torch.nan)
    made = policy.decide(observation())
    assert made.stop_reason == StopReason.NON_FINITE and not made.converged and np.isinf(made.change).any()
    assert made.iterations < 12


def test_row_30_decisions_that_do_not_settle_are_flagged_shortened_and_pause_when_they_go_on(make_rig):
    rig = make_rig(unsettled_to_pause=3, horizon_rule="linear_decay", **QUICK).moving()
    assert rig.until(lambda: rig.decisions and rig.decisions[-1].converged)
    settled = rig.decisions[-1].horizon
    rig.instruct("unsettled")
    assert rig.until(lambda: any(d.published and not d.converged for d in rig.decisions)), rig.log
    assert next(d for d in rig.decisions if d.published and not d.converged).horizon < settled
    assert rig.until(lambda: rig.line("Pause: 3 decisions in a row had not settled within 16 iterations")), rig.log
    assert rig.rests()
    rig.instruct("calm")
    rig.moving()  # decisions went on without motions, and one has settled


@pytest.mark.parametrize("rule", ["binary", "linear_decay", "published_decay", "settled_prefix"])
def test_row_30_every_horizon_rule_that_looks_at_the_decision_shortens_what_has_not_settled(rule):
    horizon = make_horizon({"rule": rule})
    assert horizon.steps(16, 8, np.full(8, 1.0)) < horizon.steps(3, 8, np.full(8, 1e-6))


def test_row_31_a_network_that_does_not_respond_is_told_and_never_sure(make_rig):
    rig = make_rig(constant_decisions=3).start()
    rig.instruct("constant")
    assert rig.until(lambda: rig.line("the network does not respond", severity="WARN")), rig.log
    told = rig.decisions[-1]
    assert told.converged, "its residual is 0"
    seen = Settling(1, told.iterations, told.limit, StopReason(told.stop_reason), True, told.threshold, tuple(told.change))
    assert score(seen, default_threshold=1e-3) == np.inf


def test_row_31_the_same_answer_to_the_same_question_is_no_fault():
    rng, watch = np.random.default_rng(0), ConstantOutput(3)
    chunk, observed = rng.uniform(size=(8, 14)), rng.uniform(size=14)
    assert not any(watch.see(chunk, observed, 1) for _ in range(10)), "one scene, one answer"
    assert not any(watch.see(rng.uniform(size=(8, 14)), observed, seen) for seen in range(10))
    assert [bool(watch.see(chunk, observed, seen)) for seen in range(20, 23)] == [False, False, True]


def test_row_32_a_first_action_off_by_a_little_is_approached_within_the_limits(make_rig):
    rig = make_rig().moving()
    rig.instruct("off by little")
    count = len(rig.sent["right"])
    assert rig.until(lambda: len(rig.sent["right"]) >= count + 3), rig.log
    for _, motion in motions(rig):
        check_trajectory(motion.joint_names, motion.times_s, motion.positions, motion.velocities, LIMITS)
    assert max(abs(motion.velocities[:, 0]).max() for _, motion in motions(rig)) > 0.2, "it is approached"


def test_row_32_a_first_action_too_far_away_is_refused_and_holds(make_rig):
    rig = make_rig().moving()
    rig.instruct("off by much")
    assert rig.holds("left_waist")


def test_row_33_chunks_that_contradict_each_other_are_joined_within_the_limits(make_rig):
    """What a controller puts out over all of them at 1 kHz. test_motion_boundaries.py and test_motion_limits.py have more."""
    rig = make_rig(horizon_rule="fixed").start()
    rig.instruct("swing")
    assert rig.until(lambda: len(rig.sent["right"]) >= 8), rig.log
    sent = list(motions(rig))
    ends = [begins for begins, _ in sent[1:]] + [np.inf]
    for (base_s, motion), end_s, (next_s, following) in zip(sent, ends, [*sent[1:], sent[-1]], strict=True):
        check_trajectory(motion.joint_names, motion.times_s, motion.positions, motion.velocities, LIMITS)
        if end_s == np.inf:
            continue
        switch_s = next_s + following.times_s[0]
        before = motion.at(round(switch_s - base_s, 6))
        assert np.allclose(following.positions[0], before.position, atol=1e-4)
        assert np.allclose(following.velocities[0], before.velocity, atol=1e-2)


def test_row_33_a_chunk_that_no_legal_motion_follows_moves_nothing_and_many_in_a_row_hold(make_rig):
    rig = make_rig().moving()
    rig.instruct("too fast at times")
    assert rig.until(lambda: rig.line("moves nothing", "than the joints' limits allow")), rig.log
    rig.moving()
    assert not rig.line("Hold: ")
    rig.instruct("too fast")
    assert rig.holds("5 decisions in a row could not be followed")


def test_row_34_a_chunk_of_another_shape_is_refused_and_holds(make_rig):
    rig = make_rig().moving()
    for command in ("too few steps", "too few joints", "no steps", "not a table", "other steps"):
        rig.lines()
        rig.log = ""
        rig.instruct(command)
        assert rig.holds("Expected a chunk of 8 steps of 0.1 s for 14 joints"), command
        again(rig)
    assert rig.policy._guard.exceptions == 0


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda m: m.pop("statistics"), "missing key 'statistics'"),
        (lambda m: m["statistics"]["action"].update(low=[0.0] * 14, high=[0.0] * 14), "noise into motion"),
        (lambda m: m["statistics"]["proprio"].update(low=[float("nan")] * 14), "finite"),
        (lambda m: m["statistics"]["action"].update(low=[0.0] * 7, high=[1.0] * 7), "expected 14 finite numbers"),
        (lambda m: m["contract"]["joint_names"].reverse(), "another robot"),
    ],
    ids=["missing", "no spread", "NaN", "of one arm", "other joints"],
)  # fmt: skip
def test_row_35_statistics_that_do_not_fit_are_no_start(checkpoint, tmp_path, change, words):
    from rdvla_ros.nodes.policy.worker.loading import load_policy
    from rdvla_ros.types import RdvlaError

    folder = shutil.copytree(checkpoint, tmp_path / "changed")
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RdvlaError, match=words):
        load_policy(settings_of(folder))


def test_row_35_the_node_refuses_to_be_configured_with_them(make_rig, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "changed")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["statistics"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    rig = make_rig(checkpoint=str(folder))
    assert not rig.change(Transition.TRANSITION_CONFIGURE)
    assert rig.until(lambda: rig.line("Not configured: ", "missing key 'statistics'", severity="ERROR")), rig.log


def settings_of(folder, **values):
    parameters = PolicyParameters(robot=str(ROBOT_FILE), checkpoint=str(folder), **values)
    return settings(parameters, RobotDescription.load(ROBOT_FILE))


# the process


def test_row_36_a_decision_that_finds_no_memory_holds_and_its_process_lives_on(make_rig):
    rig = make_rig(worker_memory_mib=1024).moving()
    process = worker_pid(rig)
    rig.instruct("oom once")  # what could be released was, and the second try is the last
    rig.moving()
    assert not rig.line("Hold: ")
    rig.instruct("over the limit")
    assert rig.holds("MemoryError")
    again(rig)
    assert worker_pid(rig) == process


def test_row_36_37_what_torch_raises_is_told_apart():
    import torch

    with pytest.raises(RuntimeError) as full:
        torch.empty(1 << 48, dtype=torch.uint8)
    for error in (full.value, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError()):
        assert worker_process.out_of_memory(error) and not worker_process.device_lost(error)
    for text in ("CUDA error: device-side assert triggered", "CUDA error: unspecified launch failure"):
        assert worker_process.device_lost(RuntimeError(text)) and not worker_process.out_of_memory(RuntimeError(text))
    assert not worker_process.device_lost(RuntimeError("shapes do not match"))


def test_row_37_a_lost_device_restarts_the_process_and_only_a_resume_moves_the_arms_again(make_rig):
    rig = make_rig(gate=True, gate_heartbeat_s=1.0)
    with contextlib.closing(FakeGate(rig)) as gate:
        rig.start()
        gate.auto()
        rig.moving()
        process = worker_pid(rig)
        rig.instruct("device lost")
        assert rig.until(lambda: rig.line("Hold: ", severity="ERROR")), rig.log
        rig.instruct("calm")
        assert rig.until(lambda: any("decision" in beat.hold for beat in gate.heard)), "the gate is asked for a hold"
        assert rig.until(lambda: replaced(rig, process)), rig.log
        assert rig.until(lambda: not alive(process))
        assert rig.rests(), "although another process is ready"
        gate.hold("the policy asked for it")
        assert rig.until(lambda: not rig.policy._heart.hold), "heard"
        assert rig.rests()
        gate.auto()
        rig.moving()


@pytest.mark.parametrize("command", ["crash", "hang"])
def test_row_38_a_process_that_crashes_or_never_answers_is_replaced_and_the_node_goes_on(make_rig, command):
    rig = make_rig(decision_timeout_s=1.0).moving()
    process, begun_s = worker_pid(rig), time.time()
    rig.instruct(command)
    assert rig.until(lambda: rig.line("Hold: ", severity="ERROR")), rig.log
    assert rig.until(lambda: not alive(process)), "it is killed"
    assert rig.until(lambda: rig.policy._inputs.synchronizer.latest().stamp_s > begun_s), "the callbacks went on meanwhile"
    assert rig.rests()
    assert rig.until(lambda: replaced(rig, process))
    again(rig)
    assert rig.policy._guard.exceptions == 0


def test_row_39_two_processes_of_one_seed_decide_the_same_to_the_last_bit(checkpoint):
    rng = np.random.default_rng(0)
    cameras = [(camera.name, camera.height, camera.width) for camera in ROBOT.cameras]
    observations = [
        Observation(
            {name: rng.integers(0, 255, (height, width, 3), dtype=np.uint8) for name, height, width in cameras},
            np.tile(HOME, 2) + rng.uniform(-0.05, 0.05, 14),
            INSTRUCTION,
            10.0 + 0.1 * number,
        )
        for number in range(4)
    ]
    workers = [ProcessWorker(LOAD, settings_of(checkpoint, seed=3), cameras) for _ in range(2)]
    try:
        runs = [[worker.submit(seen).result(60) for seen in observations] for worker in workers if worker.loaded.result(120)]
        for first, second in zip(*runs, strict=True):
            assert first.chunk.positions.tobytes() == second.chunk.positions.tobytes()
            assert first.iterations == second.iterations and first.change.tobytes() == second.change.tobytes()
        assert len({made.chunk.positions.tobytes() for made in runs[0]}) == 4
    finally:
        for worker in workers:
            worker.kill("the test ends")
            worker.process.wait(10)
