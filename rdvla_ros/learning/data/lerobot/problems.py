"""What is wrong with a dataset: the first thing stops a training, `rdvla inspect` goes on and collects all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rdvla_ros.types import RdvlaError


class Problems(list[str]):
    """One line each. collect False: the first is raised instead."""

    def __init__(self, collect: bool = False):
        super().__init__()
        self.collect = collect

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Around a check that the following ones do not need: what it raises is collected, and the following ones run."""
        try:
            yield
        except RdvlaError as error:
            if not self.collect:
                raise
            if (text := one_line(error)) not in self:
                self.append(text)


def one_line(error: object) -> str:
    return " ".join(str(error).split())
