"""Vision-language families of transformers that can carry the head: what differs between them, as data and short functions.

A family fits when its decoder layers see image tokens in one sequence with the prompt: latent queries can be appended there, and
hidden states read. Encoder-decoder models (Florence-2) and models that cross-attend to images have no such sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rdvla_ros.types import CheckpointError, nearest_names

PLACES = ("{images}", "{instruction}")


@dataclass(frozen=True)
class Family:
    """model_types: of config.json. model, config: class names in transformers, without a head for words.

    decoder: attribute of the model that holds the decoder layers. vision, projector: names of the submodules that see, and that
    turn what was seen into tokens. template: the prompt; {images} stands for `image` of every
    camera, in which {tokens} stands for its image tokens. tokens: (config, image side) -> image tokens of one camera.
    pack: (images (B, n, 3, S, S), config) -> arguments of the model's forward.
    """

    model_types: tuple[str, ...]
    model: str
    config: str
    decoder: str
    vision: str
    projector: tuple[str, ...]
    template: str
    image: str
    image_token: str
    tokens: Callable[[Any, int], int]
    pack: Callable[[Tensor, Any], dict[str, Tensor]]
    side_of: Callable[[Any], int]  # the image side that the published weights were trained with [px]
    means: tuple[float, float, float] = (0.5, 0.5, 0.5)
    stds: tuple[float, float, float] = (0.5, 0.5, 0.5)
    extra: Callable[[Tensor, Any], dict[str, Tensor]] = lambda ids, config: {}


def _smolvlm_tokens(config: Any, side: int) -> int:
    return (side // config.vision_config.patch_size) ** 2 // config.scale_factor**2


def _qwen_tokens(config: Any, side: int) -> int:
    vision = config.vision_config
    return (side // vision.patch_size // vision.spatial_merge_size) ** 2


def _paligemma_tokens(config: Any, side: int) -> int:
    return (side // config.vision_config.patch_size) ** 2


def _qwen_pack(images: Tensor, config: Any) -> dict[str, Tensor]:
    """Patches in the order of the merger: blocks of merge x merge patches together, the still image repeated in time."""
    vision = config.vision_config
    patch, merge, times = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    frames = images.flatten(0, 1)
    count, channels, side, _ = frames.shape
    grid = side // patch
    x = frames.reshape(count, channels, grid // merge, merge, patch, grid // merge, merge, patch)
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, times, -1, -1)
    sizes = torch.tensor([[1, grid, grid]], device=images.device).expand(count, -1)
    return {"pixel_values": x.reshape(count * grid * grid, -1), "image_grid_thw": sizes}


def _qwen_extra(ids: Tensor, config: Any) -> dict[str, Tensor]:
    return {"mm_token_type_ids": (ids == config.image_token_id).int()}


QWEN_USER = "<|im_start|>user\n{images}{instruction}<|im_end|>\n<|im_start|>assistant\n"
CLIP = {"means": (0.48145466, 0.4578275, 0.40821073), "stds": (0.26862954, 0.26130258, 0.27577711)}

FAMILIES = {
    "smolvlm2": Family(
        ("smolvlm",),
        "SmolVLMModel",
        "SmolVLMConfig",
        "text_model",
        "vision_model",
        ("connector",),
        "<|im_start|>User:{images}{instruction}<end_of_utterance>\nAssistant:",
        "<fake_token_around_image><global-img>{tokens}<fake_token_around_image>",
        "<image>",
        _smolvlm_tokens,
        lambda images, config: {"pixel_values": images},
        lambda config: config.vision_config.image_size,
    ),
    "qwen2.5-vl": Family(
        ("qwen2_5_vl",),
        "Qwen2_5_VLModel",
        "Qwen2_5_VLConfig",
        "language_model",
        "visual",
        ("visual.merger",),
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + QWEN_USER,
        "<|vision_start|>{tokens}<|vision_end|>",
        "<|image_pad|>",
        _qwen_tokens,
        _qwen_pack,
        lambda config: 224,
        extra=_qwen_extra,
        **CLIP,
    ),
    "qwen3-vl": Family(
        ("qwen3_vl",),
        "Qwen3VLModel",
        "Qwen3VLConfig",
        "language_model",
        "visual",
        ("visual.merger", "visual.deepstack_merger_list"),
        QWEN_USER,
        "<|vision_start|>{tokens}<|vision_end|>",
        "<|image_pad|>",
        _qwen_tokens,
        _qwen_pack,
        lambda config: 256,
        extra=_qwen_extra,
    ),
    "paligemma2": Family(
        ("paligemma",),
        "PaliGemmaModel",
        "PaliGemmaConfig",
        "language_model",
        "vision_tower",
        ("multi_modal_projector",),
        "{images}<bos>{instruction}\n",
        "{tokens}",
        "<image>",
        _paligemma_tokens,
        lambda images, config: {"pixel_values": images.flatten(0, 1)},
        lambda config: config.vision_config.image_size,
        extra=lambda ids, config: {"token_type_ids": torch.zeros_like(ids)},  # image and prompt see each other
    ),
}
REASONS = {
    "florence2": "it is an encoder-decoder: no decoder layer holds the image tokens",
    "mllama": "its layers cross-attend to the images: no sequence holds the image tokens",
    "blip-2": "its Q-Former reads the images: the image tokens are not dense",
    "clip": "it has no decoder layers",
    "siglip": "it has no decoder layers",
}


def family(name: str) -> Family:
    if name not in FAMILIES:
        raise CheckpointError(f"Backbone family '{name}' is not known. {nearest_names(name, FAMILIES)}")
    return FAMILIES[name]


def family_of(model_type: str) -> str:
    """The family's name for `model_type` of a config.json; CheckpointError with the reason where none fits."""
    for name, entry in FAMILIES.items():
        if model_type in entry.model_types:
            return name
    reason = REASONS.get(model_type, "nobody has written down how its images become tokens (rdvla_ros.model.backbones.families)")
    raise CheckpointError(f"A '{model_type}' model does not fit the head: {reason}. Known families: {', '.join(FAMILIES)}.")
