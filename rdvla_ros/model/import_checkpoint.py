"""`rdvla import-checkpoint FOLDER OUT`: a published RD-VLA folder as a checkpoint of this package.

The published folder says nothing of the robot: joint names, cameras and the meaning of the actions come from a robot description.
Nothing is downloaded, no code of the folder is run, and pickled files are read with weights_only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from rdvla_ros.model.backbones.prismatic import PrismaticBackbone
from rdvla_ros.model.checkpoint import MANIFEST, STORED, Checkpoint, Contract, load_checkpoint, save_checkpoint
from rdvla_ros.model.normalization import REPRESENTATIONS, ActionSpace, relative_columns
from rdvla_ros.model.prompt_tokenizer import PromptTokenizer, qwen_tokenizer
from rdvla_ros.model.published import load_model
from rdvla_ros.model.published_statistics import BOUNDS, load_space
from rdvla_ros.model.rdvla import RDVLA
from rdvla_ros.model.resample import KERNELS
from rdvla_ros.robot import RobotDescription, shipped
from rdvla_ros.types import CheckpointError

DEFAULT_ROBOT = "config/aloha_sim.yaml"
HALTING = {"rule": "action_change", "threshold": 5e-4, "max_iterations": 32}  # the paper's
EXECUTED = 5  # steps of a chunk that the published evaluation executes


@dataclass(frozen=True)
class ImportSettings:
    """What the published folder does not say.

    cameras: names in the order of the images (empty: all of the robot). representation: of the actions (empty: the robot's).
    step_s: time between two rows of a chunk [s]. step: which head, where the folder holds several. dataset, bounds: of the
    statistics. crop_area, kernel, jpeg: see resample.Preprocessing. dtype: of the stored weights; 'auto' loses nothing.
    """

    cameras: tuple[str, ...] = ()
    representation: str = ""
    step_s: float = 0.1
    step: str | None = None
    dataset: str | None = None
    bounds: str = "q01_q99"
    crop_area: float | None = None
    kernel: str | None = None
    jpeg: bool | None = None
    dtype: str = "auto"


def import_checkpoint(folder: Path, output: Path, robot: RobotDescription, settings: ImportSettings | None = None) -> Path:
    """Read `folder`, check everything, write `output` whole or not at all."""
    settings = settings or ImportSettings()
    _check_output(output)
    cameras = _cameras(settings.cameras or robot.camera_names, robot)
    checkpoint = _checkpoint(Path(folder), robot, settings, cameras)
    dtype = lossless_dtype(checkpoint.model) if settings.dtype == "auto" else settings.dtype
    return save_checkpoint(output, checkpoint, dtype)


def _check_output(output: Path) -> None:
    if output.exists() and not (output / MANIFEST).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise CheckpointError(f"{output}: expected a new folder or an older checkpoint to replace, found other files there.")


def _cameras(names: Sequence[str], robot: RobotDescription) -> tuple[str, ...]:
    unknown = [name for name in names if name not in robot.camera_names]
    if unknown or len(set(names)) != len(names):
        raise CheckpointError(
            f"Cameras: expected names of robot '{robot.name}' ({', '.join(robot.camera_names)}), each once, "
            f"got {', '.join(names)}."
        )
    return tuple(names)


def _checkpoint(folder: Path, robot: RobotDescription, settings: ImportSettings, cameras: tuple[str, ...]) -> Checkpoint:
    representation = settings.representation or robot.representation
    relative = relative_columns(representation, robot.joint_names, robot.gripper_joints)
    preprocessing = {name: getattr(settings, name) for name in ("crop_area", "kernel", "jpeg")}
    model = load_model(folder, step=settings.step, **preprocessing)
    space = _space(folder, relative, settings, model, robot)
    backbone: PrismaticBackbone = model.backbone
    backbone.config = replace(backbone.config, camera_names=cameras)
    tokenizer = PromptTokenizer(qwen_tokenizer(folder))
    if tokenizer.size > backbone.config.text.vocabulary:
        raise CheckpointError(
            f"{folder}: the tokenizer has ids up to {tokenizer.size - 1}, the language model {backbone.config.text.vocabulary} "
            "embeddings. The files are of different checkpoints."
        )
    head = model.head.config
    contract = Contract(
        robot.joint_names, robot.gripper_joints, cameras, representation, float(settings.step_s), head.chunk_length
    )
    horizon = {"rule": "fixed", "length": min(EXECUTED, head.chunk_length)}
    notes = {"imported_from": folder.resolve().name, "robot": robot.name, "statistics": settings.dataset or "the only ones"}
    return Checkpoint(model, contract, space, tokenizer, dict(HALTING), horizon, notes, "prismatic")


def _space(folder: Path, relative, settings: ImportSettings, model: RDVLA, robot: RobotDescription) -> ActionSpace:
    head, joints = model.head.config, len(robot.joint_names)
    if (head.action_dim, head.proprio_dim) != (joints, joints):
        raise CheckpointError(
            f"{folder}: its actions are {head.action_dim} and its proprioception {head.proprio_dim} numbers, robot "
            f"'{robot.name}' has {joints} joints. Name the robot it was trained for with "
            "--robot. (A LIBERO checkpoint moves the end effector by 7 numbers and reads 8: no robot here takes those, "
            "though rdvla_ros.model.published.load_model reads it.)"
        )
    space = load_space(folder, relative, dataset=settings.dataset, bounds=settings.bounds)
    return ActionSpace.from_dict(space.to_dict(), relative)  # refuses what a load of it would refuse


def lossless_dtype(model: torch.nn.Module) -> str:
    """The smallest of the stored number formats that keeps every weight as it is."""
    for name in ("bfloat16", "float16"):
        kind = STORED[name]
        if all(bool((tensor.to(kind).to(tensor.dtype) == tensor).all()) for tensor in model.state_dict().values()):
            return name
    return "float32"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rdvla import-checkpoint", description=__doc__)
    parser.add_argument("folder", type=Path, help="published folder: config.json, model.safetensors, action_head--*.pt, ...")
    parser.add_argument("output", type=Path, help="checkpoint folder to write")
    parser.add_argument("--robot", type=Path, help=f"robot description it was trained for (default: {DEFAULT_ROBOT})")
    parser.add_argument("--cameras", nargs="+", default=(), help="cameras in the order of training (default: the robot's)")
    parser.add_argument("--representation", choices=REPRESENTATIONS, help="of the actions (default: the robot description's)")
    parser.add_argument("--step-s", type=float, default=0.1, help="time between two actions of a chunk [s] (default: 0.1)")
    parser.add_argument("--step", help="training step of the head, where the folder holds several")
    parser.add_argument("--dataset", help="key in dataset_statistics.json, where there are several")
    parser.add_argument("--bounds", choices=tuple(BOUNDS), default="q01_q99", help="what -1 and 1 stand for")
    parser.add_argument("--crop-area", type=float, help="share kept by the centre crop (default 0.9; 1: none)")
    parser.add_argument("--kernel", choices=tuple(KERNELS), help="of the resizing (default: bicubic)")
    parser.add_argument(
        "--jpeg", action="store_true", default=None, help="through a JPEG first, as the published evaluation does"
    )
    parser.add_argument("--dtype", choices=("auto", *STORED), default="auto", help="of the stored weights (auto: lossless)")
    options = vars(parser.parse_args(argv))
    folder, output, robot_file = (options.pop(name) for name in ("folder", "output", "robot"))
    robot = RobotDescription.load(robot_file or shipped(DEFAULT_ROBOT))
    options |= {"cameras": tuple(options["cameras"]), "representation": options["representation"] or ""}
    written = import_checkpoint(folder, output, robot, ImportSettings(**options))
    contract = load_checkpoint(written).contract
    joints, cameras = len(contract.joint_names), ", ".join(contract.camera_names)
    print(f"Wrote {written} for robot '{robot.name}': {joints} joints, cameras {cameras},")
    print(f"{contract.representation} actions {contract.step_s:g} s apart. The folder does not record these: check them.")
    print(f"'rdvla inspect {written}' prints all of it.")
    return 0
