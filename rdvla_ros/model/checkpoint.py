"""Checkpoint folder: `manifest.json` (what the weights are and for which robot) and `model.safetensors`.

No pickle anywhere. The folder appears whole or not at all, and reading checks everything before a weight is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rdvla_ros.model.backbones import backbone_class
from rdvla_ros.model.config import HeadConfig
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.memory import require_memory
from rdvla_ros.model.normalization import ActionSpace, relative_columns
from rdvla_ros.model.prompt_tokenizer import PromptTokenizer
from rdvla_ros.model.rdvla import RDVLA
from rdvla_ros.model.tokenizer import WordTokenizer
from rdvla_ros.types import CheckpointError, nearest_names

FORMAT, FORMAT_VERSION = "rdvla_ros policy", 1
MANIFEST, WEIGHTS = "manifest.json", "model.safetensors"
STORED = {"float16": torch.float16, "float32": torch.float32, "bfloat16": torch.bfloat16}
KEYS = {
    "": ("format", "format_version", "model", "contract", "tokenizer", "statistics", "inference", "training", "weights"),
    "model": ("backbone", "backbone_config", "head_config"),
    "contract": ("joint_names", "gripper_joints", "camera_names", "representation", "step_s", "chunk_length"),
    "statistics": ("proprio", "action"),
    "inference": ("halting", "horizon"),
    "weights": ("file", "sha256", "bytes", "dtype"),
}
DEFAULT_HALTING = {"rule": "action_change", "threshold": 1e-6, "max_iterations": 16}
OPTIONAL_KEYS = {"inference": ("start",), "statistics": ("demonstrated", "sensors")}  # absent from older manifests
TOKENIZERS = {cls.kind: cls for cls in (WordTokenizer, PromptTokenizer)}
TOKENIZER_KEYS = {"words": ("vocabulary", "max_words"), "prompt": ("kind", "file", "sha256", "template", "max_tokens", "lower")}
DEFAULT_START = {"start": "drawn"}
DEFAULT_HORIZON = {"rule": "linear_decay", "longest": 8, "shortest": 4, "full_until": 3}


@dataclass(frozen=True)
class Contract:
    """The robot and the data a policy was trained for. joint_names in the order of every (A,) vector."""

    joint_names: tuple[str, ...]
    gripper_joints: tuple[str, ...]
    camera_names: tuple[str, ...]
    representation: str
    step_s: float
    chunk_length: int


@dataclass(frozen=True)
class Checkpoint:
    """Everything a policy consists of, in memory. training: free-form notes for the model card."""

    model: RDVLA
    contract: Contract
    space: ActionSpace
    tokenizer: WordTokenizer | PromptTokenizer
    halting: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULT_HALTING))
    horizon: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULT_HORIZON))
    training: Mapping[str, Any] = field(default_factory=dict)
    backbone_name: str = "compact"
    start: Mapping[str, Any] = field(default_factory=lambda: dict(DEFAULT_START))


def save_checkpoint(folder: str | Path, checkpoint: Checkpoint, dtype: str = "float16") -> Path:
    """Write the folder; one that exists is replaced in one rename each way, so no reader ever sees half of it."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        tensors = {
            name: value.detach().to("cpu", STORED[dtype]).contiguous() for name, value in checkpoint.model.state_dict().items()
        }
        _check_finite(tensors, "the weights to be saved")
        save_file(tensors, work / WEIGHTS)
        manifest = _manifest(checkpoint, dtype, work / WEIGHTS)
        (work / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        checkpoint.tokenizer.write(work)
        work.chmod(0o755)
        (work / WEIGHTS).chmod(0o644)
        _swap(work, folder)
    except OSError as error:
        raise CheckpointError(f"Checkpoint {folder} could not be written: {error}. Nothing half-written was left.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _swap(work: Path, folder: Path) -> None:
    for file in work.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    if not folder.exists():
        work.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.rename(old / folder.name)
    work.rename(folder)
    shutil.rmtree(old)


def _manifest(checkpoint: Checkpoint, dtype: str, weights: Path) -> dict[str, Any]:
    contract, space, model = checkpoint.contract, checkpoint.space, checkpoint.model
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "contract": {key: getattr(contract, key) for key in KEYS["contract"]},
        "inference": {name: dict(getattr(checkpoint, name)) for name in ("halting", "horizon", "start")},
        "tokenizer": checkpoint.tokenizer.to_dict(),
        "statistics": space.to_dict(),
        "model": {
            "backbone": checkpoint.backbone_name,
            "backbone_config": model.backbone.config.to_dict(),
            "head_config": model.head.config.to_dict(),
        },
        "weights": {"file": WEIGHTS, "sha256": sha256_of(weights), "bytes": weights.stat().st_size, "dtype": dtype},
        "training": dict(checkpoint.training),
    }


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest, its keys and version checked; CheckpointError says what is wrong with it."""
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        names = sorted(item.name for item in folder.iterdir()) if folder.is_dir() else ["no such folder"]
        found = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise CheckpointError(
            f"Checkpoint {folder}: expected {MANIFEST} and {WEIGHTS}, found {found or 'an empty folder'}. A published folder "
            "(config.json, action_head--*.pt) is something else: 'rdvla import-checkpoint FOLDER OUT' makes one of ours of it "
            "(rdvla_ros.model.published.load_model reads it)."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: expected JSON, got a file that cannot be read ({error}). Copy the folder again."
        ) from error
    _check_keys(manifest, "", path)
    if manifest["format"] != FORMAT or manifest["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: expected format '{FORMAT}' version {FORMAT_VERSION}, got '{manifest['format']}' version "
            f"{manifest['format_version']}. Use the release of rdvla_ros that wrote it, or train again."
        )
    for section in KEYS:
        if section:
            _check_keys(manifest[section], section, path)
    _check_tokenizer(manifest["tokenizer"], path)
    return manifest


def _check_tokenizer(data: Any, path: Path) -> None:
    kind = data.get("kind", WordTokenizer.kind) if isinstance(data, Mapping) else None
    if isinstance(data, Mapping) and kind not in TOKENIZERS:
        raise CheckpointError(f"{path}: tokenizer: kind '{kind}'. {nearest_names(kind, TOKENIZERS)}")
    _check_keys(data, "tokenizer", path, TOKENIZER_KEYS.get(kind, ()))


def _check_keys(data: Any, section: str, path: Path, wanted: tuple[str, ...] | None = None) -> None:
    """wanted: the section's keys, where they depend on what else it says."""
    place = f"{path}: {section}" if section else str(path)
    if not isinstance(data, Mapping):
        raise CheckpointError(f"{place}: expected a mapping, got {type(data).__name__}.")
    wanted = KEYS[section] if wanted is None else wanted
    for key in data:
        known = (*wanted, *OPTIONAL_KEYS.get(section, ()))
        if key not in known:
            raise CheckpointError(f"{place}: unknown key '{key}'. {nearest_names(key, known)}")
    missing = [key for key in wanted if key not in data]
    if missing:
        raise CheckpointError(f"{place}: missing key '{missing[0]}'. Expected keys: {', '.join(wanted)}.")


def load_checkpoint(folder: str | Path, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """Read a folder that `save_checkpoint` wrote: a model in evaluation mode, of numbers of `dtype`."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    contract = _contract(manifest["contract"], folder)
    width = len(contract.joint_names)
    relative = relative_columns(contract.representation, contract.joint_names, contract.gripper_joints)
    space = ActionSpace.from_dict(manifest["statistics"], relative)
    model = _build_model(manifest["model"], folder)
    head = model.head.config
    for key, value, expected in (
        ("action_dim", head.action_dim, width),
        ("proprio_dim", head.proprio_dim, width),
        ("chunk_length", head.chunk_length, contract.chunk_length),
    ):
        if value != expected:
            raise CheckpointError(f"{folder / MANIFEST}: head_config.{key}: expected {expected} as in the contract, got {value}.")
    widths = () if space.sensors is None else tuple(space.sensors.widths.values())
    if head.sensors != widths:
        raise CheckpointError(
            f"{folder / MANIFEST}: head_config.sensors: expected {list(widths)} as in the statistics, got {list(head.sensors)}."
        )
    _load_weights(model, folder, manifest["weights"], dtype)
    tokenizer = TOKENIZERS[manifest["tokenizer"].get("kind", WordTokenizer.kind)].from_dict(manifest["tokenizer"], folder)
    inference = manifest["inference"]
    return Checkpoint(
        model.eval(),
        contract,
        space,
        tokenizer,
        inference["halting"],
        inference["horizon"],
        manifest["training"],
        manifest["model"]["backbone"],
        inference.get("start", DEFAULT_START),
    )


def _contract(data: Mapping[str, Any], folder: Path) -> Contract:
    contract = Contract(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})
    if not contract.joint_names or len(set(contract.joint_names)) != len(contract.joint_names):
        raise CheckpointError(f"{folder / MANIFEST}: contract.joint_names: expected distinct names, got {contract.joint_names}.")
    if not isinstance(contract.step_s, float) or not contract.step_s > 0:
        raise CheckpointError(f"{folder / MANIFEST}: contract.step_s: expected seconds above 0, got {contract.step_s!r}.")
    return contract


def _build_model(data: Mapping[str, Any], folder: Path) -> RDVLA:
    cls = backbone_class(data["backbone"])
    try:
        backbone = cls.empty(cls.config_class.from_dict(data["backbone_config"]))
    except (TypeError, KeyError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST}: backbone_config does not describe a '{data['backbone']}' backbone: {error}."
        ) from error
    return RDVLA(backbone, RDVLAHead(HeadConfig.from_dict(data["head_config"])))


def _load_weights(model: RDVLA, folder: Path, described: Mapping[str, Any], dtype: torch.dtype) -> None:
    path = folder / WEIGHTS
    if described["file"] != WEIGHTS or not path.is_file():
        raise CheckpointError(
            f"{folder}: expected weights in {WEIGHTS}, found {'none' if not path.is_file() else described['file']}."
        )
    if path.stat().st_size != described["bytes"]:
        raise CheckpointError(
            f"{path}: expected {described['bytes']} bytes, got {path.stat().st_size}: truncated. Copy it again."
        )
    if sha256_of(path) != described["sha256"]:
        raise CheckpointError(
            f"{path}: its SHA-256 is not the manifest's: damaged, or from another training. Copy the folder again."
        )
    expected = model.state_dict()
    require_memory(described["bytes"] + sum(tensor.numel() for tensor in expected.values()) * torch.finfo(dtype).bits // 8, path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error}).") from error
    for name, tensor in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{path}: missing tensor '{name}'. {nearest_names(name, tensors)}")
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(f"{path}: {name}: expected shape {tuple(tensor.shape)}, got {tuple(tensors[name].shape)}.")
    foreign = [name for name in tensors if name not in expected]
    if foreign:
        raise CheckpointError(f"{path}: unknown tensor '{foreign[0]}'. {nearest_names(foreign[0], expected)}")
    _check_finite(tensors, str(path))
    model.load_state_dict({name: tensors.pop(name).to(dtype, copy=True) for name in expected}, assign=True)
    model.backbone.loaded()


def _check_finite(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where}: {name} contains NaN or infinity. Train again, or use an earlier checkpoint.")


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
