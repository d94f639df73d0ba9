"""Instructions as token ids of a language model's own tokenizer, inside the prompt that the weights were trained with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from rdvla_ros.types import CheckpointError, ObservationError

FILE = "tokenizer.json"
QWEN_TEMPLATE = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\nWhat action should the robot take to {instruction}?<|im_end|>\n<|im_start|>assistant\n"
)
PLACE = "{instruction}"
PADDING = -1  # in a batch of ids: in front of a prompt that is shorter than others
# How Qwen2 cuts text before the byte pairs are merged.
QWEN_PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class PromptTokenizer:
    """template: the prompt with {instruction} in it. max_tokens: of the whole prompt. lower: the instruction in lower case."""

    tokenizer: Tokenizer
    template: str = QWEN_TEMPLATE
    max_tokens: int = 512
    lower: bool = True

    kind = "prompt"
    vocabulary = ()  # no list of words that training saw

    def __post_init__(self) -> None:
        if self.template.count(PLACE) != 1:
            raise CheckpointError(f"Tokenizer: template: expected {PLACE} in it once, got {self.template[:80]!r}.")

    @property
    def size(self) -> int:
        """Number of ids: one more than the highest."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def description(self) -> str:
        return f"{self.tokenizer.get_vocab_size()} tokens of a language model, {self.max_tokens} per prompt"

    def encode(self, instruction: str) -> list[int]:
        """'Pick up the cube' -> the ids of the whole prompt; ObservationError for an empty or too long one."""
        text = instruction.strip()
        if not text:
            raise ObservationError("Instruction: expected words, got none. Set an instruction.")
        text = text.lower() if self.lower else text
        special = [token.content for token in self.tokenizer.get_added_tokens_decoder().values() if token.content in text]
        if special:
            raise ObservationError(
                f"Instruction: expected words, got the control token {special[0]!r} in {instruction[:80]!r}. Leave it out."
            )
        ids = self.tokenizer.encode(self.template.replace(PLACE, text), add_special_tokens=False).ids
        if len(ids) > self.max_tokens:
            raise ObservationError(
                f"Instruction: expected a prompt of at most {self.max_tokens} tokens, got {len(ids)} for {instruction[:80]!r}. "
                "Say it in fewer words."
            )
        return ids

    def unknown_words(self, instruction: str) -> tuple[str, ...]:
        """None: every text can be written in byte pairs."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        """For the manifest, with the digest of the file that `write` makes."""
        digest = hashlib.sha256(self._text().encode()).hexdigest()
        settings = {"template": self.template, "max_tokens": self.max_tokens, "lower": self.lower}
        return {"kind": self.kind, "file": FILE, "sha256": digest, **settings}

    def write(self, folder: Path) -> list[Path]:
        path = folder / FILE
        path.write_text(self._text(), encoding="utf-8")
        return [path]

    def _text(self) -> str:
        return self.tokenizer.to_str()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], folder: Path) -> PromptTokenizer:
        path = folder / FILE
        if data["file"] != FILE or not path.is_file():
            raise CheckpointError(f"{folder}: expected the tokenizer in {FILE}, found none. Copy the folder again.")
        text = path.read_text(encoding="utf-8")
        if hashlib.sha256(text.encode()).hexdigest() != data["sha256"]:
            raise CheckpointError(f"{path}: its SHA-256 is not the manifest's: damaged, or another one. Copy the folder again.")
        settings = {key: data[key] for key in ("template", "max_tokens", "lower")}
        return cls(tokenizer_from_text(text, path), **settings)


def tokenizer_from_text(text: str, path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(
            f"{path}: expected a tokenizer of the tokenizers library, found something else ({error})."
        ) from error


def qwen_tokenizer(folder: Path) -> Tokenizer:
    """From tokenizer.json, or from the vocab.json, merges.txt and tokenizer_config.json of a folder; no remote code is run."""
    whole = folder / FILE
    if whole.is_file():
        return tokenizer_from_text(whole.read_text(encoding="utf-8"), whole)
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    missing = [path.name for path in (vocabulary, merges) if not path.is_file()]
    if missing:
        raise CheckpointError(f"{folder}: expected {FILE}, or vocab.json and merges.txt; found no {missing[0]}. Copy them there.")
    try:
        tokenizer = Tokenizer(BPE.from_file(str(vocabulary), str(merges), byte_fallback=False))
    except Exception as error:
        raise CheckpointError(f"{folder}: vocab.json and merges.txt do not read as a BPE tokenizer ({error}).") from error
    tokenizer.normalizer = normalizers.NFC()
    pieces = pre_tokenizers.Split(_regex(QWEN_PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in _added(folder, tokenizer)])
    return tokenizer


def _regex(pattern: str):
    from tokenizers import Regex

    return Regex(pattern)


def _added(folder: Path, tokenizer: Tokenizer) -> list[str]:
    """Contents of the added tokens in the order of their ids, which must go on where the vocabulary ends."""
    named: dict[int, str] = {}
    for name in ("tokenizer_config.json", "added_tokens.json"):
        path = folder / name
        if path.is_file():
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
                if name == "added_tokens.json":
                    named |= {int(number): text for text, number in data.items()}
                else:
                    decoder = data.get("added_tokens_decoder", {})
                    named |= {int(number): entry["content"] for number, entry in decoder.items()}
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise CheckpointError(f"{path}: expected added tokens with their ids, found something else ({error}).") from error
    first = tokenizer.get_vocab_size(with_added_tokens=False)
    fresh = {number: text for number, text in sorted(named.items()) if tokenizer.token_to_id(text) != number}
    if list(fresh) != list(range(first, first + len(fresh))):
        raise CheckpointError(
            f"{folder}: expected added tokens with ids from {first} on without gaps, found {list(fresh)[:6]}. The tokenizer's "
            "files are of different models."
        )
    return [text for _, text in sorted(named.items())]


def padded(ids: list[int], multiple: int) -> list[int]:
    """The ids with PADDING in front, up to the next multiple of `multiple` tokens (0: as they are)."""
    missing = -len(ids) % multiple if multiple else 0
    return [PADDING] * missing + ids
