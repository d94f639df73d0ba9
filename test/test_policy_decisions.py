"""A decision of a policy: what it needs, what it gives, and what it refuses."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from policy_cases import observation, robot, tiny_checkpoint, tiny_policy

from rdvla_ros.model.backbones import BACKBONES, backbone_class
from rdvla_ros.model.backbones.compact import CameraInput, position_code
from rdvla_ros.model.halting import ActionChange, FixedDepth
from rdvla_ros.model.images import prepare_image
from rdvla_ros.model.policy import Policy
from rdvla_ros.model.tokenizer import UNKNOWN, WordTokenizer
from rdvla_ros.types import CheckpointError, ObservationError, StopReason


def test_a_decision_holds_an_absolute_chunk_at_the_observations_stamp():
    decision = tiny_policy(halting=FixedDepth(3)).decide(observation())
    assert decision.chunk.positions.shape == (8, 14) and np.isfinite(decision.chunk.positions).all()
    assert decision.chunk.stamp_s == 12.5 and decision.chunk.step_s == 0.1
    assert decision.iterations == 3 and decision.stop_reason is StopReason.FIXED_DEPTH
    assert set(decision.timings) == {"preprocess", "vision", "head", "postprocess", "total"}
    assert sum(v for k, v in decision.timings.items() if k != "total") == pytest.approx(decision.timings["total"], rel=1e-6)


def test_relative_actions_move_with_the_arms_and_grippers_do_not():
    """The same network output from two postures: joints shift by the difference, grippers stay."""
    space = tiny_checkpoint().space
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 14))
    low, high = np.zeros(14), np.full(14, 0.3)
    difference = space.decode_targets(actions, high) - space.decode_targets(actions, low)
    expected = np.where([n in robot().gripper_joints for n in robot().joint_names], 0.0, 0.3)
    np.testing.assert_allclose(difference, np.broadcast_to(expected, (8, 14)), atol=1e-12)


def test_targets_stay_where_demonstrations_went_or_where_the_arms_are():
    space = tiny_checkpoint().space  # demonstrated: -3 .. 3
    positions = np.zeros(14)
    positions[0] = 3.5
    kept = space.within_demonstrated(np.full((8, 14), 9.0), positions)
    assert (kept[:, 0] == 3.5).all() and (kept[:, 1:] == 3.0).all()
    np.testing.assert_array_equal(space.within_demonstrated(np.full((8, 14), -2.5), positions), np.full((8, 14), -2.5))


def test_grippers_are_told_nothing_beyond_closed_and_open():
    """Not even where one rests beyond its stop, or where demonstrations pressed beyond it."""
    checkpoint, grippers = tiny_checkpoint(), [n in robot().gripper_joints for n in robot().joint_names]
    checkpoint.space.action.low[:], checkpoint.space.action.high[:] = -9.0, 9.0
    for seed in range(5):
        chunk = Policy(checkpoint, halting=FixedDepth(2), seed=seed).decide(observation()).chunk.positions
        assert (chunk[:, grippers] >= 0.0).all() and (chunk[:, grippers] <= 1.0).all()
    assert np.abs(chunk).max() > 1.0


def test_the_same_seed_gives_the_same_decision_and_another_scratchpad_another():
    policy, fixed = tiny_policy(halting=FixedDepth(2)), observation()
    policy.reseed(5)
    first = policy.decide(fixed).chunk.positions
    second = policy.decide(fixed).chunk.positions
    policy.reseed(5)
    again = policy.decide(fixed).chunk.positions
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)


def test_warming_up_leaves_no_trace_in_the_decisions():
    cold, warm = (tiny_policy(halting=FixedDepth(2)) for _ in range(2))
    assert warm.warm_up() > 0.0
    np.testing.assert_array_equal(cold.decide(observation()).chunk.positions, warm.decide(observation()).chunk.positions)


def test_a_deadline_ends_the_iterations():
    decision = tiny_policy(halting=ActionChange(0.0, max_iterations=100000)).decide(observation(), deadline=0.05)
    assert decision.stop_reason is StopReason.DEADLINE and not decision.converged
    assert decision.iterations < 100000 and np.isfinite(decision.chunk.positions).all()


def test_an_unknown_word_is_noted_and_harmless():
    decision = tiny_policy().decide(observation(instruction="grasp the RED cube"))
    assert decision.notes == ("words this checkpoint never saw: grasp",)


@pytest.mark.parametrize("instruction", ["", " ... ", "word " * 17])
def test_an_instruction_of_no_or_too_many_words_is_refused(instruction):
    with pytest.raises(ObservationError, match="expected 1 to 16 words"):
        tiny_policy().decide(observation(instruction=instruction))


def test_words_are_ids_of_the_vocabulary():
    tokenizer = WordTokenizer.from_instructions(["Pick up, the cube!"], 8)
    assert tokenizer.vocabulary == ("cube", "pick", "the", "up") and tokenizer.size == 6
    assert tokenizer.encode("PICK the peg") == [3, 4, UNKNOWN]


def _without(mapping, key):
    return {name: value for name, value in mapping.items() if name != key}


def test_a_missing_camera_is_named_with_the_cameras_there_are():
    full = observation()
    with pytest.raises(ObservationError, match="No picture of camera 'top'.*left_wrist"):
        tiny_policy().decide(observation(images=_without(full.images, "top")))


@pytest.mark.parametrize(
    "picture, message",
    [
        (np.zeros((48, 64), np.uint8), "expected \\(height, width, 3\\) uint8"),
        (np.zeros((48, 64, 3), np.float32), "float32"),
        (np.zeros((4, 4, 3), np.uint8), "at least 24 x 16 pixels"),
        (None, "No picture of camera 'top'"),
    ],
)
def test_a_picture_of_another_form_is_refused(picture, message):
    images = {**observation().images, "top": picture}
    with pytest.raises(ObservationError, match=message):
        tiny_policy().decide(observation(images=images))


@pytest.mark.parametrize(
    "positions, message", [(np.zeros(7), r"expected shape \(14,\)"), (np.r_[np.zeros(13), np.nan], "right_gripper")]
)
def test_positions_of_another_robot_or_not_finite_are_refused(positions, message):
    with pytest.raises(ObservationError, match=message):
        tiny_policy().decide(observation(positions=positions))


def test_the_robot_it_was_trained_for_is_accepted():
    d = robot()
    tiny_policy().require_robot(d.joint_names, (*d.camera_names, "extra"), "relative", d.gripper_joints)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(joint_names=("a",) * 7), "14 joints .* the robot 7"),
        (
            dict(joint_names=("right_waist", *(f"j{i}" for i in range(13)))),
            "joint 0 is 'left_waist' in the checkpoint and 'right_waist'",
        ),
        (dict(camera_names=("top",)), "needs camera 'left_wrist'"),
        (dict(representation="absolute"), "actions are relative"),
        (dict(gripper_joints=("left_gripper",)), "Gripper joints"),
    ],
)
def test_another_robot_is_refused_by_name(change, message):
    d = robot()
    described = dict(
        joint_names=d.joint_names, camera_names=d.camera_names, representation="relative", gripper_joints=d.gripper_joints
    )
    with pytest.raises(CheckpointError, match=message):
        tiny_policy().require_robot(**{**described, **change})


def test_a_picture_of_any_size_becomes_the_same_input():
    """Shrinking by area averages: twice the resolution of the same picture gives the same pixels."""
    camera = CameraInput("top", 24, 16, crop=(0.25, 0.0, 0.75, 1.0))
    small = np.random.default_rng(0).integers(0, 255, (16, 48, 3), dtype=np.uint8)
    large = small.repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_array_equal(prepare_image(large, camera), small[:, 12:36])


def test_positions_of_keypoints_are_told_apart():
    code = position_code(torch.tensor([[0.1, -0.2], [0.11, -0.2]]))
    assert code.shape == (2, 22) and (code[0] - code[1]).abs().max() > 0.1


def test_an_unknown_backbone_is_refused_with_the_names_there_are():
    assert "compact" in BACKBONES
    with pytest.raises(CheckpointError, match="'compat' is not known. Known: compact"):
        backbone_class("compat")


def test_half_precision_decides_nearly_the_same():
    full = tiny_policy(halting=FixedDepth(2)).decide(observation()).chunk.positions
    half = Policy(tiny_checkpoint(), halting=FixedDepth(2), dtype="bfloat16").decide(observation()).chunk.positions
    assert np.abs(full - half).max() < 0.1


def test_a_decision_sees_every_camera_once_and_copies_no_picture_for_its_layout():
    """Pictures come as rows of pixels, which is the layout the stems want; text is computed once per instruction."""
    policy = tiny_policy(halting=FixedDepth(6))
    backbone, counts = policy.model.backbone, Counter()
    for name, stem in backbone.stems.items():
        stem.register_forward_pre_hook(lambda module, args, name=name: counts.update([name, _layout(args[0])]))
    backbone.text.register_forward_pre_hook(lambda module, args: counts.update(["text"]))
    for block in backbone.blocks:
        block.register_forward_pre_hook(lambda module, args: counts.update(["block"]))
    for image in policy._images(observation()).values():
        assert image.dtype == torch.uint8 and image.is_contiguous(memory_format=torch.channels_last)
    for seed in range(3):
        policy.decide(observation(seed))
    assert counts == {"top": 3, "left_wrist": 3, "right_wrist": 3, "text": 1, "block": 3 * len(backbone.blocks), "rows": 9}


def _layout(image):
    return "rows" if image.is_contiguous(memory_format=torch.channels_last) else "planes"
