"""The model that a training configuration describes.

A fresh compact one, a fresh head on a pretrained vision-language model, or an imported published model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rdvla_ros.learning.config import COMPACT, PRISMATIC, ModelSettings, TrainConfig, TrainingError
from rdvla_ros.learning.training.initialise import rescale
from rdvla_ros.model.backbones.base import Backbone
from rdvla_ros.model.backbones.compact import CompactBackbone, CompactConfig
from rdvla_ros.model.backbones.families import family
from rdvla_ros.model.backbones.vlm_loading import vlm_from_folder, vlm_tokenizer
from rdvla_ros.model.checkpoint import TOKENIZERS, load_checkpoint, read_manifest
from rdvla_ros.model.config import HeadConfig
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.normalization import ActionSpace
from rdvla_ros.model.prompt_tokenizer import PromptTokenizer
from rdvla_ros.model.rdvla import RDVLA
from rdvla_ros.model.tokenizer import WordTokenizer


def make_tokenizer(config: TrainConfig, instructions: Sequence[str]) -> WordTokenizer | PromptTokenizer:
    """The words of the instructions, or the pretrained model's own tokenizer in its prompt."""
    sizes = config.model
    if sizes.backbone == COMPACT:
        return WordTokenizer.from_instructions(instructions, sizes.max_words)
    if sizes.backbone == PRISMATIC:
        folder = _pretrained(sizes)
        data = _imported(sizes)["tokenizer"]
        return TOKENIZERS[data["kind"]].from_dict(data, folder)
    return vlm_tokenizer(_pretrained(sizes), sizes.backbone, sizes.cameras)


def resizing(config: TrainConfig) -> str:
    """The kernel by which pictures are made small, where the pretrained model asks for one ('': area averaging)."""
    if config.model.backbone != PRISMATIC:
        return ""
    return _imported(config.model)["model"]["backbone_config"]["preprocessing"]["kernel"]


def backbone_name(config: TrainConfig) -> str:
    """As the manifest of a checkpoint names it."""
    return config.model.backbone if config.model.backbone in (COMPACT, PRISMATIC) else "vlm"


def build_model(
    config: TrainConfig, tokenizer: WordTokenizer | PromptTokenizer, action_dim: int, space: ActionSpace | None = None
) -> RDVLA:
    """torch's global generator decides what is fresh. space: what the numbers of the training mean; an imported head, which knows
    others, is rewritten to them."""
    sizes = config.model
    if sizes.backbone == PRISMATIC:
        return _imported_model(config, action_dim, space)
    backbone = _backbone(config, tokenizer)
    head = RDVLAHead(
        HeadConfig(
            hidden_dim=sizes.hidden_dim,
            num_heads=sizes.num_heads,
            prelude_layers=sizes.prelude_layers,
            core_layers=sizes.core_layers,
            coda_layers=sizes.coda_layers,
            chunk_length=sizes.chunk_length,
            action_dim=action_dim,
            proprio_dim=action_dim,
            mean_recurrence=max(1, round(config.depth.mean)),
            backprop_depth=config.backprop_depth,
            ffn_multiple=sizes.ffn_multiple,
            sensors=() if space is None or space.sensors is None else tuple(space.sensors.widths.values()),
            context_dim=None if backbone.hidden_dim == sizes.hidden_dim else backbone.hidden_dim,
        )
    )
    return RDVLA(backbone, head)


def _pretrained(sizes: ModelSettings) -> Path:
    if sizes.backbone != PRISMATIC:
        family(sizes.backbone)  # an unknown name is the first thing to say
    if not Path(sizes.pretrained).is_dir() or not sizes.pretrained:
        wanted = "a checkpoint of rdvla import-checkpoint" if sizes.backbone == PRISMATIC else "config.json and safetensors"
        raise TrainingError(
            f"model.pretrained: expected a folder with {wanted} for backbone '{sizes.backbone}', got "
            f"'{sizes.pretrained}'. Nothing is downloaded here."
        )
    return Path(sizes.pretrained)


def _imported(sizes: ModelSettings) -> dict:
    """The manifest of an imported model, checked against the configuration."""
    folder = _pretrained(sizes)
    manifest = read_manifest(folder)
    found = manifest["model"]["backbone"]
    if found != PRISMATIC:
        raise TrainingError(
            f"{folder}: expected an imported '{PRISMATIC}' model, found a '{found}' one. Use --initialise for it."
        )
    side, length = manifest["model"]["backbone_config"]["dino"]["image"], manifest["contract"]["chunk_length"]
    for camera in sizes.cameras:
        if (camera.width, camera.height, camera.crop) != (side, side, (0.0, 0.0, 1.0, 1.0)):
            raise TrainingError(
                f"model.cameras: '{camera.name}': expected {side} x {side} px without crop, as {folder} takes whole images, got "
                f"{camera.width} x {camera.height}, crop {list(camera.crop)}."
            )
    if sizes.chunk_length != length:
        raise TrainingError(f"model.chunk_length: expected {length} as in {folder}, got {sizes.chunk_length}.")
    return manifest


def _imported_model(config: TrainConfig, action_dim: int, space: ActionSpace | None) -> RDVLA:
    _imported(config.model)
    source = load_checkpoint(_pretrained(config.model))
    head, contract = source.model.head.config, source.contract
    if (head.action_dim, contract.representation) != (action_dim, config.representation):
        raise TrainingError(
            f"{config.model.pretrained}: its actions are {head.action_dim} numbers, {contract.representation}; expected "
            f"{action_dim}, {config.representation}. Choose the robot it was imported for, and its representation."
        )
    if space is not None:
        weights = source.model.state_dict()
        if space.sensors is not None:
            raise TrainingError("data.sensors: expected none, since an imported head reads none. Remove them.")
        rescale(weights, source.space, space)
        source.model.load_state_dict(weights)
    backbone = source.model.backbone
    backbone.config = replace(backbone.config, camera_names=tuple(camera.name for camera in config.model.cameras))
    return source.model


def _backbone(config: TrainConfig, tokenizer: WordTokenizer | PromptTokenizer) -> Backbone:
    sizes = config.model
    if sizes.backbone != COMPACT:
        read = tuple(sorted({*sizes.prelude_layers, *sizes.core_layers, *sizes.coda_layers}))
        return vlm_from_folder(_pretrained(sizes), sizes.backbone, sizes.cameras, read, sizes.latent_queries)
    return CompactBackbone(
        CompactConfig(
            cameras=sizes.cameras,
            vocabulary_size=tokenizer.size,
            hidden_dim=sizes.hidden_dim,
            num_heads=sizes.num_heads,
            num_layers=sizes.backbone_layers,
            mlp_ratio=sizes.mlp_ratio,
            latent_queries=sizes.latent_queries,
            text_tokens=sizes.text_tokens,
            max_words=sizes.max_words,
        )
    )
