"""Reader of published RD-VLA checkpoint folders (PyTorch files, read once with weights_only).

A folder holds action_head--<step>_checkpoint.pt, action_head_config--<step>_checkpoint.json and
proprio_projector--<step>_checkpoint.pt, where <step> is a number or "latest". Sizes are read off the tensors and checked
against the configuration; anything else is refused with what was expected and what was found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rdvla_ros.model.config import HeadConfig, HeadConfigError
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.published_backbone import load_backbone
from rdvla_ros.model.rdvla import RDVLA
from rdvla_ros.types import CheckpointError

_HEAD_FILE = re.compile(r"action_head--(?P<step>.+)_checkpoint\.pt")
_STACKS = {"prelude": "prelude", "recurrent": "core", "coda": "coda"}  # published name -> ours
_LISTS = {"prelude": "prelude_vlm_layers", "recurrent": "recurrent_vlm_layers", "coda": "coda_vlm_layers"}
# Our maps that are one matrix where the published head has several, stacked along the output.
_FUSED = {
    "qkv_self": ("q_self", "k_self", "v_self"),
    "kv_latents": ("k_latents", "v_latents"),
    "kv_vision": ("k_vision", "v_vision"),
    "ffn_in": ("ffn_gate", "ffn_up"),
}
_SINGLE = ("norm1", "o_self", "norm2", "q_cross", "o_cross", "norm3", "ffn_down")
_TOP = {
    "action_queries": "action_queries",
    "adapter.weight": "adapter.weight",
    "adapter_norm.weight": "adapter_norm.weight",
    "gamma_adapt": "gamma_adapt",
    "recurrent_norm.weight": "core_norm.weight",
    "output_norm.weight": "output_norm.weight",
    "output_proj.weight": "output.weight",
    "output_proj.bias": "output.bias",
    "gamma_init": "gamma_init",
}
_CONFIG_KEYS = ("hidden_dim", "num_heads", *_LISTS.values(), "action_chunk_len", "action_dim")


def load_head(folder: str | Path, *, step: str | int | None = None, dtype: torch.dtype = torch.float32) -> RDVLAHead:
    """The action head and proprioception projector of a published folder, in evaluation mode.

    step: which checkpoint where the folder holds several (a number or "latest").
    """
    folder = Path(folder)
    step = _find_step(folder, step)
    weights = _read_tensors(folder / f"action_head--{step}_checkpoint.pt")
    projector = _read_tensors(folder / f"proprio_projector--{step}_checkpoint.pt")
    settings = _read_json(folder / f"action_head_config--{step}_checkpoint.json")
    config = _head_config(settings, projector, folder)
    head = RDVLAHead(config)
    _load(head, _renamed(weights, projector, config, folder), folder)
    return head.to(dtype).eval()


def load_model(
    folder: str | Path, *, step: str | int | None = None, dtype: torch.dtype = torch.float32, **preprocessing: Any
) -> RDVLA:
    """The whole model of a published folder, in evaluation mode.

    `model.backbone(pixel_values (B, 6 * images, S, S), input_ids (B, N))` gives (task_states, latent_states) for `model.head`.
    step, dtype: as for load_head. preprocessing: fields of resample.Preprocessing, where the folder's are not wanted.
    """
    head = load_head(folder, step=step, dtype=dtype)
    backbone = load_backbone(Path(folder), head.config.context_layers, dtype, **preprocessing)
    if backbone.hidden_dim != head.config.context_width:
        raise CheckpointError(
            f"{folder}: the head reads hidden states {head.config.context_width} wide, the language model's are "
            f"{backbone.hidden_dim} wide. The files are of different checkpoints."
        )
    return RDVLA(backbone, head).eval()


def _find_step(folder: Path, step: str | int | None) -> str:
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: expected a published checkpoint folder, found no folder there")
    found = sorted(match["step"] for path in folder.iterdir() if (match := _HEAD_FILE.fullmatch(path.name)))
    if not found:
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise CheckpointError(f"{folder}: expected action_head--<step>_checkpoint.pt, found {names}")
    if step is not None:
        if str(step) not in found:
            raise CheckpointError(f"{folder}: expected a head of step {step}, found steps {', '.join(found)}")
        return str(step)
    if len(found) > 1 and "latest" not in found:
        raise CheckpointError(f"{folder}: expected one head, found steps {', '.join(found)}; name one with step=")
    return "latest" if "latest" in found else found[0]


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """name without wrapper prefixes -> tensor."""
    if not path.is_file():
        raise CheckpointError(f"{path}: expected this file beside the others of the folder, found none")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler and zip reader meet
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: expected a whole PyTorch file of plain tensors, found {path.stat().st_size} bytes that do not "
            f"read as one ({reason}); download it again"
        ) from error
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        kind = "a mapping of other things" if isinstance(loaded, Mapping) else type(loaded).__name__
        raise CheckpointError(f"{path}: expected names with tensors, found {kind}")
    return {re.sub(r"^(module\.|model\.)+", "", name): tensor for name, tensor in loaded.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: expected the head's configuration, found no such file") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: expected JSON, found something else ({error})") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(settings).__name__}")
    missing = [name for name in _CONFIG_KEYS if name not in settings]
    if missing:
        raise CheckpointError(f"{path}: expected {', '.join(missing)}, found {', '.join(settings) or 'nothing'}")
    return settings


def _head_config(settings: Mapping[str, Any], projector: Mapping[str, Tensor], folder: Path) -> HeadConfig:
    if set(projector) != {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"} or projector["fc1.weight"].ndim != 2:
        raise CheckpointError(
            f"{folder}: expected fc1 and fc2 with weight and bias in proprio_projector, found {_listed(projector)}"
        )
    optional = {
        ours: settings[theirs]
        for theirs, ours in (
            ("mean_recurrence", "mean_recurrence"),
            ("backprop_depth", "backprop_depth"),
            ("init_std", "init_std"),
            ("rms_norm_eps", "rms_norm_eps"),
            ("rope_base", "rope_base"),
        )
        if theirs in settings
    }
    try:
        return HeadConfig(
            hidden_dim=settings["hidden_dim"],
            num_heads=settings["num_heads"],
            prelude_layers=settings["prelude_vlm_layers"],
            core_layers=settings["recurrent_vlm_layers"],
            coda_layers=settings["coda_vlm_layers"],
            chunk_length=settings["action_chunk_len"],
            action_dim=settings["action_dim"],
            proprio_dim=projector["fc1.weight"].shape[1],
            rotary_form="published",
            **optional,
        )
    except HeadConfigError as error:
        raise CheckpointError(f"{folder}: the head's configuration describes no head: {error}") from error


def _renamed(
    weights: Mapping[str, Tensor], projector: Mapping[str, Tensor], config: HeadConfig, folder: Path
) -> dict[str, Tensor]:
    """Published tensors under our names, maps that read the same input stacked."""
    weights = dict(weights)
    renamed = {f"proprio.{name}": tensor for name, tensor in projector.items()}
    missing: list[str] = []

    def take(name: str) -> Tensor | None:
        if name not in weights:
            missing.append(name)
        return weights.pop(name, None)

    for theirs, ours in _TOP.items():
        renamed[ours] = take(theirs)
    for theirs, ours in _STACKS.items():
        for i in range(len(getattr(config, f"{ours}_layers"))):
            for name in _SINGLE:
                renamed[f"{ours}.{i}.{name}.weight"] = take(f"{theirs}.{i}.{name}.weight")
            renamed[f"{ours}.{i}.gate"] = take(f"{theirs}.{i}.gate")
            for name, parts in _FUSED.items():
                tensors = [take(f"{theirs}.{i}.{part}.weight") for part in parts]
                if all(t is not None for t in tensors):
                    _check_parts([f"{theirs}.{i}.{part}.weight" for part in parts], tensors, config, name, folder)
                    renamed[f"{ours}.{i}.{name}.weight"] = torch.cat(tensors)
    if missing or weights:
        raise CheckpointError(
            f"{folder}: the head's tensors do not fit its configuration: missing {_listed(missing)}; "
            f"not expected {_listed(weights)}"
        )
    _read_scalars(renamed, config)
    _split_adapter(renamed, config, folder)
    return renamed


def _check_parts(names: list[str], tensors: list[Tensor], config: HeadConfig, fused: str, folder: Path) -> None:
    """Stacked maps could hide two wrong sizes that add up to a right one, so each part is checked."""
    rows = config.ffn_multiple * config.hidden_dim if fused == "ffn_in" else config.hidden_dim
    for name, tensor in zip(names, tensors, strict=True):
        if tuple(tensor.shape) != (rows, config.hidden_dim):
            raise CheckpointError(
                f"{folder}: {name}: expected {rows} x {config.hidden_dim}, found {' x '.join(map(str, tensor.shape))}"
            )


def _read_scalars(renamed: dict[str, Tensor], config: HeadConfig) -> None:
    """Scalars are stored with or without dimensions of length 1; a gamma per channel joins the adapter's rows."""
    gamma = renamed["gamma_adapt"]
    if gamma.numel() == config.hidden_dim > 1 and renamed["adapter.weight"].shape[0] == config.hidden_dim:
        renamed["adapter.weight"] = gamma.reshape(-1, 1) * renamed["adapter.weight"]
        renamed["gamma_adapt"] = torch.ones((), dtype=gamma.dtype)
    for name, tensor in renamed.items():
        if name in ("gamma_adapt", "gamma_init") or name.endswith(".gate"):
            renamed[name] = tensor.reshape(()) if tensor.numel() == 1 else tensor
    queries = renamed["action_queries"]
    renamed["action_queries"] = queries[0] if queries.ndim == 3 and queries.shape[0] == 1 else queries


def _split_adapter(renamed: dict[str, Tensor], config: HeadConfig, folder: Path) -> None:
    """W_adapt reads [S; S_pre]: its halves are maps of their own here."""
    adapter = renamed.pop("adapter.weight")
    if tuple(adapter.shape) != (config.hidden_dim, 2 * config.hidden_dim):
        raise CheckpointError(
            f"{folder}: adapter.weight: expected {config.hidden_dim} x {2 * config.hidden_dim}, "
            f"found {' x '.join(map(str, adapter.shape))}"
        )
    renamed["adapter_state.weight"], renamed["adapter_plan.weight"] = adapter.chunk(2, dim=1)


def _load(head: RDVLAHead, renamed: Mapping[str, Tensor], folder: Path) -> None:
    expected = head.state_dict()
    wrong = [
        f"{name}: expected {' x '.join(map(str, expected[name].shape)) or 'one number'}, "
        f"found {' x '.join(map(str, tensor.shape)) or 'one number'}"
        for name, tensor in renamed.items()
        if tensor.shape != expected[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{folder}: sizes do not fit the configuration: {'; '.join(wrong[:4])}"
            + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        )
    bad = [name for name, tensor in renamed.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise CheckpointError(f"{folder}: expected finite weights, found NaN or infinity in {_listed(bad)}")
    head.load_state_dict(dict(renamed))


def _listed(names) -> str:
    names = sorted(names)
    return (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")) or "nothing"
