"""Tiny random models of the real transformers classes, saved as their folders are, with tiny tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from rdvla_ros.model.backbones.compact import CameraInput

SPECIAL = {
    "smolvlm2": ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>"],
    "qwen2.5-vl": ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "paligemma2": ["<bos>", "<eos>", "<image>"],
}
SPECIAL["qwen3-vl"] = SPECIAL["qwen2.5-vl"]
NAMES = tuple(SPECIAL)
CAMERAS = ("top", "left_wrist", "right_wrist")
SIDE = 32
TEXT = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)


def cameras(side: int = SIDE) -> tuple[CameraInput, ...]:
    return tuple(CameraInput(name, side, side, keypoints=1, channels=(4, 4, 4)) for name in CAMERAS)


def tokenizer(name: str) -> Tokenizer:
    made = Tokenizer(BPE())
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(vocab_size=280, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator(["pick up the red cube and hand it over"] * 3, trainer)
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL[name]])
    return made


def make_config(name: str, ids: dict[str, int], size: int):
    import transformers as t

    text = TEXT | {"vocab_size": size, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, patch_size=8)
    if name == "smolvlm2":
        text |= {"model_type": "llama"}
        return t.SmolVLMConfig(
            text_config=text,
            vision_config=vision | {"image_size": SIDE},
            scale_factor=2,
            image_token_id=ids["<image>"],
            pad_token_id=0,
        )
    if name == "paligemma2":
        text |= {"model_type": "gemma2", "head_dim": 8, "sliding_window": 512}
        vision |= {"model_type": "siglip_vision_model", "image_size": SIDE, "projection_dim": 32, "vision_use_head": False}
        return t.PaliGemmaConfig(text_config=text, vision_config=vision, image_token_id=ids["<image>"], projection_dim=32)
    tokens = dict(image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"])
    tokens |= dict(vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"])
    heads = dict(depth=2, hidden_size=32, num_heads=4, patch_size=8, spatial_merge_size=2, intermediate_size=48)
    if name == "qwen2.5-vl":
        text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}}
        vision = heads | dict(out_hidden_size=32, window_size=32, fullatt_block_indexes=[1])
        return t.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
    text |= {"head_dim": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}}
    vision = heads | dict(out_hidden_size=32, num_position_embeddings=16, deepstack_visual_indexes=[0, 1])
    return t.Qwen3VLConfig(text_config=text, vision_config=vision, **tokens)


def write_vlm(folder: Path, name: str, seed: int = 0) -> Path:
    """config.json, model.safetensors, tokenizer.json and preprocessor_config.json of a random model."""
    import transformers as t

    from rdvla_ros.model.backbones.families import family

    folder.mkdir(parents=True, exist_ok=True)
    words = tokenizer(name)
    ids = {text: words.token_to_id(text) for text in SPECIAL[name]}
    torch.manual_seed(seed)
    model = getattr(t, family(name).model)(make_config(name, ids, words.get_vocab_size()))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    words.save(str(folder / "tokenizer.json"))
    processor = {"image_mean": family(name).means, "image_std": family(name).stds}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
