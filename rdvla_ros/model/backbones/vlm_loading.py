"""A vision-language model from a folder on disk (what from_pretrained reads): no hub, no remote code, safetensors only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from rdvla_ros.model.backbones.compact import CameraInput
from rdvla_ros.model.backbones.families import Family, family, family_of
from rdvla_ros.model.backbones.vlm import VlmBackbone, VlmConfig, transformers_config
from rdvla_ros.model.memory import require_memory
from rdvla_ros.model.prompt_tokenizer import FILE, PLACE, PromptTokenizer, tokenizer_from_text
from rdvla_ros.types import CheckpointError

PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def vlm_from_folder(
    folder: str | Path, name: str, cameras: tuple[CameraInput, ...], read_layers: tuple[int, ...], latent_queries: int
) -> VlmBackbone:
    """The model with its weights; `name`: the family that the folder is expected to be of. Latent queries are fresh."""
    folder = Path(folder)
    values = _json(folder / "config.json")
    found = family_of(str(values.get("model_type")))
    if found != name:
        raise CheckpointError(f"{folder}: expected a '{name}' model as the configuration says, found '{found}'.")
    entry = family(name)
    side = cameras[0].width if cameras else entry.side_of(transformers_config(name, values))
    whole = transformers_config(name, values).get_text_config().num_hidden_layers
    means, stds = _normalisation(folder, entry)
    config = VlmConfig(
        name, _trimmed(values, max(1, *read_layers)), whole, tuple(read_layers), latent_queries, side, cameras, means, stds
    )
    _check_side(entry, transformers_config(name, values), side, name)
    return VlmBackbone(config, _weights(folder, config))


def vlm_tokenizer(folder: str | Path, name: str, cameras: tuple[CameraInput, ...], max_tokens: int = 4096) -> PromptTokenizer:
    """The folder's tokenizer inside the family's prompt, with the image tokens of all cameras written out."""
    folder, entry = Path(folder), family(name)
    if not (folder / FILE).is_file():
        raise CheckpointError(f"{folder}: expected {FILE} of the tokenizers library, found none. Save the tokenizer with it.")
    tokenizer = tokenizer_from_text((folder / FILE).read_text(encoding="utf-8"), folder / FILE)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    settings = transformers_config(name, _json(folder / "config.json"))
    count = entry.tokens(settings, cameras[0].width)
    if tokenizer.token_to_id(entry.image_token) != settings.image_token_id:
        raise CheckpointError(
            f"{folder}: expected '{entry.image_token}' to be token {settings.image_token_id} as config.json says, found "
            f"{tokenizer.token_to_id(entry.image_token)}. The tokenizer is of another model."
        )
    images = entry.image.replace("{tokens}", entry.image_token * count) * len(cameras)
    template = entry.template.replace("{images}", images).replace("{instruction}", PLACE)
    made = PromptTokenizer(tokenizer, template, max_tokens, lower=False)
    _check_images(made, settings.image_token_id, count * len(cameras), folder)
    return made


def _check_images(made: PromptTokenizer, image_token: int, expected: int, folder: Path) -> None:
    found = made.encode("pick up the cube").count(image_token)
    if found != expected:
        raise CheckpointError(f"{folder}: expected {expected} image tokens in a prompt, its tokenizer makes {found}.")


def _check_side(entry: Family, config: Any, side: int, name: str) -> None:
    vision = config.vision_config
    unit = vision.patch_size * getattr(vision, "spatial_merge_size", getattr(config, "scale_factor", 1))
    fixed = None if hasattr(vision, "spatial_merge_size") else entry.side_of(config)
    if side % unit or side < unit or (fixed is not None and side != fixed):
        wanted = f"{fixed} px" if fixed is not None else f"a multiple of {unit} px"
        raise CheckpointError(f"Backbone: expected images of {wanted} for this {name} model, got {side} px: see model.cameras.")


def _trimmed(values: dict[str, Any], kept: int) -> dict[str, Any]:
    """The configuration with `kept` decoder layers."""
    values = json.loads(json.dumps(values))
    text = values.get("text_config", values)
    text["num_hidden_layers"] = kept
    if isinstance(text.get("layer_types"), list):
        text["layer_types"] = text["layer_types"][:kept]
    return values


def _normalisation(folder: Path, entry: Family) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for name in PROCESSORS:
        if (folder / name).is_file():
            data = _json(folder / name)
            data = data.get("image_processor", data)
            if "image_mean" in data and "image_std" in data:
                return tuple(map(float, data["image_mean"])), tuple(map(float, data["image_std"]))
    return entry.means, entry.stds


def _weights(folder: Path, config: VlmConfig) -> torch.nn.Module:
    import transformers

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{folder}: expected weights in safetensors files, found none. Pickled weights are not read.")
    for file in files:
        _check_whole(file)
    require_memory(2 * sum(file.stat().st_size for file in files), folder)
    entry = family(config.family)
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # what is left out on purpose needs no report
    try:
        model, report = getattr(transformers, entry.model).from_pretrained(
            folder,
            config=transformers_config(config.family, config.model),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # transformers and safetensors raise what they meet
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{folder}: expected the weights of a {config.family} model, could not read them ({reason})."
        ) from error
    finally:
        transformers.logging.set_verbosity(level)
    missing, wrong = sorted(report["missing_keys"]), sorted(map(str, report.get("mismatched_keys", ())))
    if missing or wrong:
        named = f"missing {', '.join(missing[:4]) or 'none'}; of another size {', '.join(wrong[:2]) or 'none'}"
        raise CheckpointError(f"{folder}: the weights are not those of config.json: {named}.")
    return model


def _check_whole(file: Path) -> None:
    """CheckpointError unless its header and its length agree; reads the header only."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not a whole safetensors file ({error}). Copy or download it again.") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected a JSON file, found something else ({error}).") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(data).__name__}.")
    return data
