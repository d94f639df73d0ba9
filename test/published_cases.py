"""A whole published folder of reduced size and random weights, written as the authors write theirs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from head_cases import write_published_folder
from head_oracle import OracleConfig, random_weights
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from rdvla_ros.robot import RobotDescription

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HEADS, KV_HEADS, LAYERS, QUERIES, VOCABULARY, SIZE = 4, 2, 4, 5, 400, 28
ROBOT_FILE = Path(__file__).resolve().parents[1] / "config" / "aloha_sim.yaml"
HEAD = OracleConfig(
    hidden_dim=32,
    num_heads=4,
    prelude=(2,),
    core=(3, 3),
    coda=(3,),
    chunk_length=8,
    action_dim=14,
    proprio_dim=14,
    published_rotary=True,
)


def _tower(w, prefix, draw, width, depth, inner, registers, scaled):
    w[f"{prefix}patch_embed.proj.weight"] = draw(width, 3, 14, 14) / 14
    w[f"{prefix}patch_embed.proj.bias"] = draw(width)
    w[f"{prefix}pos_embed"] = draw(1, (SIZE // 14) ** 2, width)
    if registers:
        w[f"{prefix}cls_token"], w[f"{prefix}reg_token"] = draw(1, 1, width), draw(1, registers, width)
    for i in range(depth):
        block = f"{prefix}blocks.{i}."
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", inner, width),
            ("mlp.fc2", width, inner),
        ):
            w[f"{block}{name}.weight"], w[f"{block}{name}.bias"] = draw(rows, columns) / columns**0.5, 0.1 * draw(rows)
        for name in ("norm1", "norm2"):
            w[f"{block}{name}.weight"], w[f"{block}{name}.bias"] = 1 + 0.2 * draw(width), 0.1 * draw(width)
        if scaled:
            w[f"{block}ls1.scale_factor"], w[f"{block}ls2.scale_factor"] = 1 + 0.3 * draw(width), 1 + 0.3 * draw(width)
    w[f"{prefix}norm.weight"], w[f"{prefix}norm.bias"] = draw(width), draw(width)
    if not registers:
        w[f"{prefix}attn_pool.latent"] = draw(1, 1, width)


def backbone_weights(seed: int = 0, width: int = 32) -> dict[str, torch.Tensor]:
    """Every tensor of a published model.safetensors; two towers of different widths and depths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    w: dict[str, torch.Tensor] = {}
    _tower(w, "vision_backbone.featurizer.", draw, 32, 3, 64, 4, True)
    _tower(w, "vision_backbone.fused_featurizer.", draw, 48, 4, 80, 0, False)
    for name, rows, columns in (("fc1", 320, 80), ("fc2", width, 320), ("fc3", width, width)):
        w[f"projector.{name}.weight"], w[f"projector.{name}.bias"] = draw(rows, columns) / columns**0.5, 0.1 * draw(rows)
    prefix = "language_model.model."
    w[f"{prefix}embed_tokens.weight"] = draw(VOCABULARY, width)
    keys = width // HEADS * KV_HEADS
    for i in range(LAYERS):
        layer = f"{prefix}layers.{i}."
        for name, rows in (("q", width), ("k", keys), ("v", keys)):
            w[f"{layer}self_attn.{name}_proj.weight"] = draw(rows, width) / width**0.5
            w[f"{layer}self_attn.{name}_proj.bias"] = 0.3 * draw(rows)
        w[f"{layer}self_attn.o_proj.weight"] = draw(width, width) / width**0.5
        for name, rows, columns in (("gate", 96, width), ("up", 96, width), ("down", width, 96)):
            w[f"{layer}mlp.{name}_proj.weight"] = draw(rows, columns) / columns**0.5
        for name in ("input_layernorm", "post_attention_layernorm"):
            w[f"{layer}{name}.weight"] = 1 + 0.2 * draw(width)
    w[f"{prefix}norm.weight"] = 1 + 0.2 * draw(width)
    w["language_model.lm_head.weight"] = w[f"{prefix}embed_tokens.weight"].clone()
    w["action_queries.weight"] = draw(QUERIES, width)
    return w


def head_of(joints: int = 14) -> OracleConfig:
    return replace(HEAD, action_dim=joints, proprio_dim=joints)


def head_weights(seed: int = 1, joints: int = 14) -> tuple[dict, dict]:
    return random_weights(head_of(joints), seed)


def statistics(width: int = 14) -> dict:
    low, high = [-0.5 - 0.01 * i for i in range(width)], [0.6 + 0.01 * i for i in range(width)]
    numbers = {"q01": low, "q99": high, "min": [v - 1 for v in low], "max": [v + 1 for v in high], "std": [0.2] * width}
    mask = [i % 7 != 6 for i in range(width)]  # the grippers pass through
    return {"aloha": {"action": {**numbers, "mask": mask}, "proprio": {**numbers, "mask": mask}}}


def write_tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt and the added tokens, as Qwen2's: byte level, special tokens behind the vocabulary."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=300, initial_alphabet=ByteLevel.alphabet(), special_tokens=[], show_progress=False)
    tokenizer.train_from_iterator(["what action should the robot take to pick up the red cube"] * 3, trainer)
    tokenizer.model.save(str(folder))
    size = tokenizer.get_vocab_size()
    added = {str(size + i): {"content": text, "special": True} for i, text in enumerate(SPECIAL)}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": added, "tokenizer_class": "Qwen2Tokenizer"})
    )


def write_folder(
    folder: Path, weights: dict | None = None, shards: int = 1, config: dict | None = None, joints: int = 14
) -> Path:
    """The whole folder; shards above 1: with an index."""
    weights = backbone_weights() if weights is None else weights
    write_published_folder(folder, head_of(joints), *head_weights(joints=joints), step="40000", prefix="module.model.")
    text = {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
    text |= {"max_position_embeddings": 512, "model_type": "qwen2", **(config or {})}
    remote = {"AutoConfig": "configuration_prismatic.OpenVLAConfig"}
    (folder / "config.json").write_text(json.dumps({"model_type": "openvla", "auto_map": remote, "text_config": text}))
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics(joints)))
    write_tokenizer(folder)
    names = sorted(weights)
    if shards == 1:
        save_file({name: weights[name].contiguous() for name in names}, folder / "model.safetensors")
        return folder
    files = {}
    for part in range(shards):
        file = f"model-{part + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: weights[name].contiguous() for name in names[part::shards]}, folder / file)
        files |= {name: file for name in names[part::shards]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def inputs(batch: int = 2, images: int = 3, tokens: int = 7, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(batch, 6 * images, SIZE, SIZE, generator=generator)
    return pixels, torch.randint(0, VOCABULARY, (batch, tokens), generator=generator)


def robot() -> RobotDescription:
    return RobotDescription.load(ROBOT_FILE)
