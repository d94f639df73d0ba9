"""A tiny policy and tiny demonstrations, made on the spot, for the tests of policy and training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rdvla_ros.learning.config import Augmentation, DepthSampler, ModelSettings, TrainConfig
from rdvla_ros.learning.recording.assemble import assemble, recording_folder
from rdvla_ros.learning.recording.demonstrate import LABEL_ROWS
from rdvla_ros.learning.recording.episodes import Episode, save_episode
from rdvla_ros.learning.training.build import build_model
from rdvla_ros.model.backbones.compact import CameraInput
from rdvla_ros.model.checkpoint import Checkpoint, Contract
from rdvla_ros.model.normalization import ActionSpace, Scaler, relative_columns
from rdvla_ros.model.policy import Policy
from rdvla_ros.model.tokenizer import WordTokenizer
from rdvla_ros.robot import RobotDescription
from rdvla_ros.types import Observation

ROBOT_FILE = Path(__file__).resolve().parents[1] / "config" / "aloha_sim.yaml"
INSTRUCTION = "pick up the red cube"


def robot() -> RobotDescription:
    return RobotDescription.load(ROBOT_FILE)


def tiny_config(**changes) -> TrainConfig:
    """Seconds to train: 16 wide, three small cameras."""
    cameras = tuple(CameraInput(name, 24, 16, keypoints=2, channels=(4, 4, 8)) for name in ("top", "left_wrist", "right_wrist"))
    model = ModelSettings(
        cameras=cameras,
        hidden_dim=16,
        num_heads=2,
        backbone_layers=2,
        latent_queries=2,
        text_tokens=1,
        prelude_layers=(1,),
        core_layers=(2,),
        coda_layers=(2,),
        chunk_length=8,
        ffn_multiple=2,
    )
    settings = dict(
        steps=4,
        decay_steps=2,
        warmup_steps=1,
        batch_size=8,
        precision="float32",
        held_out_every=4,
        evaluate_every=2,
        log_every=1,
        depth=DepthSampler(mean=3.0),
        model=model,
        augmentation=Augmentation(shift_px={"top": 1}),
    )
    return TrainConfig(**{**settings, **changes})


def tiny_checkpoint(seed: int = 0, representation: str = "relative") -> Checkpoint:
    description = robot()
    names, grippers = description.joint_names, description.gripper_joints
    tokenizer = WordTokenizer.from_instructions([INSTRUCTION], 16)
    torch.manual_seed(seed)
    config = tiny_config()
    width = np.ones(len(names))
    space = ActionSpace(
        relative_columns(representation, names, grippers), Scaler(-3 * width, 3 * width), Scaler(-width, 2 * width)
    )
    contract = Contract(names, grippers, ("top", "left_wrist", "right_wrist"), representation, 0.1, 8)
    return Checkpoint(build_model(config, tokenizer, len(names)), contract, space, tokenizer, training={"step": 0})


def tiny_policy(**options) -> Policy:
    return Policy(tiny_checkpoint(), **options)


def observation(seed: int = 0, **changes) -> Observation:
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for name in ("top", "left_wrist", "right_wrist")}
    values = dict(images=images, positions=rng.uniform(-0.5, 0.5, 14), instruction=INSTRUCTION, stamp_s=12.5)
    return Observation(**{**values, **changes})


def write_episodes(folder: Path, count: int = 5, steps: int = 6) -> Path:
    """A LeRobotDataset of made-up demonstrations: the right waist follows the brightness of the top picture."""
    parts = recording_folder(folder)
    names = robot().joint_names
    for seed in range(10000, 10000 + count):
        rng = np.random.default_rng(seed)
        level = rng.integers(0, 255, steps)
        images = np.broadcast_to(level[:, None, None, None, None], (steps, 3, 32, 48, 3)).astype(np.uint8)
        positions = rng.uniform(-0.2, 0.2, (steps, 14)).astype(np.float32)
        labels = np.repeat(positions[:, None], LABEL_ROWS, axis=1)
        labels[:, :, 7] = (level / 255.0)[:, None]
        save_episode(
            parts,
            Episode(
                images=images,
                positions=positions,
                labels=labels,
                executed=positions,
                stage=np.zeros(steps, np.int8),
                phase=np.array(["reach"] * steps),
                camera_names=np.array(["top", "left_wrist", "right_wrist"]),
                joint_names=np.array(names),
                task="transfer_cube",
                instruction=INSTRUCTION,
                seed=seed,
                step_s=0.1,
                max_stage=0,
            ),
        )
    assemble(folder, robot().name)
    return folder
