"""The vision-language model of a published folder: safetensors, whole or in shards, with sizes read off the tensors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rdvla_ros.model.backbones.prismatic import PrismaticBackbone
from rdvla_ros.model.backbones.prismatic_config import PrismaticConfig, TextConfig
from rdvla_ros.model.backbones.vit import VitConfig
from rdvla_ros.model.memory import require_memory
from rdvla_ros.model.resample import Preprocessing
from rdvla_ros.types import CheckpointError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DINO, SIGLIP, LANGUAGE = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer.", "language_model.model."
OURS = {"dino.": DINO, "siglip.": SIGLIP, "language.": LANGUAGE}  # our prefix -> the published one
HEADS = 16  # of both vision towers, at every size
HEAD_WIDTH = 64  # of Qwen2.5-0.5B, where the configuration says nothing that fits
# In the files, read by nobody: what comes after the features that are used.
UNREAD = re.compile(
    r"vision_backbone\.(fused_)?featurizer\.(norm|fc_norm|head|attn_pool)\..*"
    r"|vision_backbone\.(fused_)?featurizer\.mask_token|language_model\.lm_head\.weight|language_model\..*rotary_emb\.inv_freq"
)


@dataclass(frozen=True)
class Tensors:
    """The tensors of a folder, read one at a time. files: name -> file; shapes: name -> shape."""

    folder: Path
    files: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]

    def read(self, names: Mapping[str, str], dtype: torch.dtype) -> dict[str, Tensor]:
        """our name -> published name; -> our name -> tensor, finite."""
        found: dict[str, Tensor] = {}
        for file in sorted({self.files[name] for name in names.values()}):
            with safe_open(file, framework="pt") as stream:
                for ours, theirs in names.items():
                    if self.files[theirs] == file:
                        found[ours] = stream.get_tensor(theirs).to(dtype, copy=True)
                        if not bool(torch.isfinite(found[ours]).all()):
                            raise CheckpointError(f"{file}: {theirs} contains NaN or infinity. Download it again.")
        return found


def load_backbone(
    folder: Path, read_layers: tuple[int, ...], dtype: torch.dtype = torch.float32, **preprocessing: Any
) -> PrismaticBackbone:
    """The backbone in evaluation mode, with the layers that `read_layers` needs.

    preprocessing: fields of resample.Preprocessing that replace those of the folder.
    """
    tensors = open_tensors(folder)
    config = read_config(tensors, read_layers, **preprocessing)
    backbone = PrismaticBackbone.empty(config)
    expected = backbone.state_dict()
    require_memory(sum(value.numel() for value in expected.values()) * torch.finfo(dtype).bits // 8, folder)
    names = {ours: _published_name(ours, tensors.shapes) for ours in expected}
    _check(tensors, expected, names, config)
    backbone.load_state_dict(tensors.read(names, dtype), assign=True)
    backbone.loaded()
    return backbone.eval()


def open_tensors(folder: Path) -> Tensors:
    """Names and shapes of all tensors; every file is opened, so that a truncated one is found before anything is read."""
    if (folder / INDEX).is_file():
        paths, wanted = _shards(folder)
    elif (folder / WHOLE).is_file():
        paths, wanted = [folder / WHOLE], {}
    else:
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt")) and "--" not in name]
        advice = f" {pickled[0]} may hold code and is not read: save it as safetensors." if pickled else ""
        raise CheckpointError(f"{folder}: expected {WHOLE} or {INDEX}, found {_listed(names)}.{advice}")
    files, shapes = {}, {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as stream:
                for name in stream.keys():  # noqa: SIM118  it is no mapping
                    files[name], shapes[name] = path, tuple(stream.get_slice(name).get_shape())
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: not a whole safetensors file ({error}). Download it again.") from error
    absent = [name for name in wanted if name not in files]
    if absent:
        raise CheckpointError(f"{folder}: {INDEX} names tensors that its files lack: {_listed(absent)}. Download it again.")
    return Tensors(folder, files, shapes)


def _shards(folder: Path) -> tuple[list[Path], Mapping[str, str]]:
    data = read_json(folder / INDEX)
    wanted = data.get("weight_map")
    if not isinstance(wanted, dict) or not wanted or not all(isinstance(name, str) for name in wanted.values()):
        raise CheckpointError(f"{folder / INDEX}: expected weight_map with a file for each tensor, found {_listed(data)}.")
    paths = sorted(folder / Path(name).name for name in set(wanted.values()))
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(f"{folder}: expected the shards {_listed(p.name for p in paths)}, found no {_listed(missing)}.")
    return paths, wanted


def read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: expected a JSON file, found something else ({error}).") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(data).__name__}.")
    return data


def read_config(tensors: Tensors, read_layers: tuple[int, ...], **preprocessing: Any) -> PrismaticConfig:
    """Sizes from the shapes; what no shape says (heads, rotary base) from config.json."""
    path = tensors.folder / "config.json"
    written = read_json(path) if path.is_file() else {}
    settings = written.get("text_config") if isinstance(written.get("text_config"), dict) else {}
    dino, siglip = _tower(tensors, DINO), _tower(tensors, SIGLIP)
    chosen = _preprocessing(tensors.folder) | {name: value for name, value in preprocessing.items() if value is not None}
    return PrismaticConfig(
        dino=dino,
        siglip=siglip,
        text=_text(tensors, settings),
        read_layers=tuple(read_layers),
        latent_queries=_shape(tensors, "action_queries.weight", 2)[0],
        preprocessing=Preprocessing(size=dino.image, **chosen),
    )


def _preprocessing(folder: Path) -> dict[str, Any]:
    """means and stds of preprocessor_config.json, where it is there."""
    path = folder / "preprocessor_config.json"
    settings = read_json(path) if path.is_file() else {}
    strategy = settings.get("image_resize_strategy", "resize-naive")
    if strategy != "resize-naive":
        raise CheckpointError(
            f"{path}: image_resize_strategy: expected 'resize-naive', found '{strategy}', which is not known here."
        )
    towers = settings.get("tvf_normalize_params")
    if not towers:
        return {}
    try:
        return {f"{key}s": tuple(tuple(map(float, tower[key])) for tower in towers) for key in ("mean", "std")}
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: tvf_normalize_params: expected mean and std per tower ({error}).") from error


def _tower(tensors: Tensors, prefix: str) -> VitConfig:
    width, channels, patch, other = _shape(tensors, f"{prefix}patch_embed.proj.weight", 4)
    places = _shape(tensors, f"{prefix}pos_embed", 3)[1]
    depth = _depth(tensors, f"{prefix}blocks.")
    side = round(places**0.5)
    if channels != 3 or patch != other or side * side != places or width % HEADS or depth < 2:
        raise CheckpointError(
            f"{tensors.folder}: {prefix}*: expected square patches of 3 channels, a square of position embeddings for patches "
            f"only, a width in {HEADS} heads and 2 blocks or more; found patches of {channels} x {patch} x {other}, {places} "
            f"positions, width {width}, {depth} blocks. This is another architecture."
        )
    registers = tensors.shapes.get(f"{prefix}reg_token", (1, 0, width))[1]
    return VitConfig(
        width=width,
        heads=HEADS,
        inner=_shape(tensors, f"{prefix}blocks.0.mlp.fc1.weight", 2)[0],
        blocks=depth - 1,  # features come out of the last but one
        patch=patch,
        image=side * patch,
        class_token=f"{prefix}cls_token" in tensors.shapes,
        registers=registers,
        layer_scale=any(f"{prefix}blocks.0.ls1.{name}" in tensors.shapes for name in ("scale_factor", "gamma")),
    )


def _text(tensors: Tensors, settings: Mapping[str, Any]) -> TextConfig:
    vocabulary, width = _shape(tensors, f"{LANGUAGE}embed_tokens.weight", 2)
    queries = _shape(tensors, f"{LANGUAGE}layers.0.self_attn.q_proj.weight", 2)[0]
    keys = _shape(tensors, f"{LANGUAGE}layers.0.self_attn.k_proj.weight", 2)[0]
    heads = settings.get("num_attention_heads")
    head_width = queries // heads if isinstance(heads, int) and heads > 0 and queries % heads == 0 else HEAD_WIDTH
    if queries % head_width or keys % head_width:
        head_width = HEAD_WIDTH
    if queries != width or queries % head_width or keys % head_width or (queries // head_width) % (keys // head_width):
        raise CheckpointError(
            f"{tensors.folder}: expected heads that share the {queries} rows of q_proj and the {keys} of k_proj, found "
            f"num_attention_heads {heads!r} in text_config of config.json. Set it to what the weights were trained with."
        )
    numbers = {
        ours: settings[theirs]
        for ours, theirs in (
            ("rms_norm_eps", "rms_norm_eps"),
            ("rope_theta", "rope_theta"),
            ("max_tokens", "max_position_embeddings"),
        )
        if isinstance(settings.get(theirs), int | float)
    }
    return TextConfig(
        vocabulary=vocabulary,
        width=width,
        inner=_shape(tensors, f"{LANGUAGE}layers.0.mlp.up_proj.weight", 2)[0],
        layers=_depth(tensors, f"{LANGUAGE}layers."),
        heads=queries // head_width,
        kv_heads=keys // head_width,
        **numbers,
    )


def _shape(tensors: Tensors, name: str, ndim: int) -> tuple[int, ...]:
    if name not in tensors.shapes:
        raise CheckpointError(
            f"{tensors.folder}: missing {name}; it holds {len(tensors.shapes)} tensors: {_listed(tensors.shapes)}. Expected "
            "DINOv2, SigLIP, a projector, Qwen2 and action_queries.weight as published; this is another architecture."
        )
    shape = tensors.shapes[name]
    if len(shape) != ndim or not all(shape):
        raise CheckpointError(f"{tensors.folder}: {name}: expected {ndim} dimensions, found {' x '.join(map(str, shape))}.")
    return shape


def _depth(tensors: Tensors, prefix: str) -> int:
    numbers = {int(name[len(prefix) :].split(".")[0]) for name in tensors.shapes if re.match(re.escape(prefix) + r"\d+\.", name)}
    return max(numbers, default=-1) + 1


def _published_name(ours: str, shapes: Mapping[str, Any]) -> str:
    if ours == "latents":
        return "action_queries.weight"
    for prefix, theirs in OURS.items():
        if ours.startswith(prefix):
            name = theirs + ours[len(prefix) :]
            renamed = name.replace(".scale_factor", ".gamma")
            return renamed if name not in shapes and renamed in shapes else name
    return ours  # the projector


def _check(tensors: Tensors, expected: Mapping[str, Tensor], names: Mapping[str, str], config: PrismaticConfig) -> None:
    """CheckpointError naming every kind of misfit: missing, unknown, of another size."""
    missing = [name for name in names.values() if name not in tensors.shapes]
    used = set(names.values())
    unknown = [name for name in tensors.shapes if name not in used and not UNREAD.fullmatch(name) and not _above(name, config)]
    if missing or unknown:
        raise CheckpointError(
            f"{tensors.folder}: the tensors are not those of the published backbone: missing {_listed(missing)}; not expected "
            f"{_listed(unknown)}."
        )
    wrong = [
        f"{theirs}: expected {' x '.join(map(str, expected[ours].shape))}, found {' x '.join(map(str, tensors.shapes[theirs]))}"
        for ours, theirs in names.items()
        if tuple(expected[ours].shape) != tensors.shapes[theirs]
    ]
    if wrong:
        raise CheckpointError(f"{tensors.folder}: sizes do not fit each other: {'; '.join(wrong[:4])}.")


def _above(name: str, config: PrismaticConfig) -> bool:
    """Whether it is of a block or layer above those that are run, or the norm that follows them."""
    limits = ((f"{DINO}blocks.", config.dino.blocks), (f"{SIGLIP}blocks.", config.siglip.blocks))
    for prefix, kept in (*limits, (f"{LANGUAGE}layers.", config.kept_layers)):
        if name.startswith(prefix):
            return int(name[len(prefix) :].split(".")[0]) >= kept
    return name == f"{LANGUAGE}norm.weight" and config.kept_layers < config.text.layers


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    return (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")) or "nothing"
