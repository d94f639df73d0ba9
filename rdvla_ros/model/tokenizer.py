"""Instructions as word ids: a vocabulary fixed at training time and kept in the checkpoint's manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdvla_ros.types import ObservationError

PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class WordTokenizer:
    """Lower-cased words; a word that training never saw becomes UNKNOWN, whose embedding word dropout has trained."""

    vocabulary: tuple[str, ...]
    max_words: int

    @classmethod
    def from_instructions(cls, instructions: Iterable[str], max_words: int) -> WordTokenizer:
        return cls(tuple(sorted({word for text in instructions for word in words(text)})), max_words)

    kind = "words"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], folder: Path) -> WordTokenizer:
        """From the manifest; inverse of `to_dict`."""
        return cls(tuple(data["vocabulary"]), int(data["max_words"]))

    def to_dict(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "max_words": self.max_words}

    def write(self, folder: Path) -> list[Path]:
        """Files beside the manifest: none."""
        return []

    @property
    def description(self) -> str:
        return f"{len(self.vocabulary)} known, {self.max_words} per instruction"

    @property
    def size(self) -> int:
        """Number of ids, padding and the unknown word included."""
        return FIRST_WORD + len(self.vocabulary)

    def encode(self, instruction: str) -> list[int]:
        """'Pick up the cube' -> one id per word; ObservationError where there is no word or there are too many."""
        found = words(instruction)
        if not found or len(found) > self.max_words:
            raise ObservationError(
                f"Instruction: expected 1 to {self.max_words} words, got {len(found)} in {instruction[:80]!r}. "
                f"Set an instruction "
                f"made of words this checkpoint knows: {', '.join(self.vocabulary)}."
            )
        ids = {word: FIRST_WORD + i for i, word in enumerate(self.vocabulary)}
        return [ids.get(word, UNKNOWN) for word in found]

    def unknown_words(self, instruction: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(word for word in words(instruction) if word not in self.vocabulary))


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
