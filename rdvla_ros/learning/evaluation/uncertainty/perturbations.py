"""What goes wrong in an episode of the study, and which episodes are run.

A kind is `seen` where weights and thresholds may be fitted on it; the other kinds only ever test them. How strong a perturbation
is follows from the seed, so that every kind has episodes that succeed and episodes that fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mujoco
import numpy as np

from rdvla_ros.learning.evaluation.conditions import Conditions
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks import get_task
from rdvla_ros.sim.tasks.base import free_qpos
from rdvla_ros.sim.tasks.follow_trail import COLOURS, INSTRUCTION, LONGEST_DRAWN, FollowTrail, pad_body
from rdvla_ros.sim.trails import LONGEST
from rdvla_ros.types import RdvlaError, nearest_names

FIRST_FIT, FIRST_TEST = 51000, 52000  # seeds; nothing was trained or chosen on them
NOMINAL_A_ROUND, SPARSE = 2, 2  # nominal episodes of each part in a round; kinds that break little come every other round
MOVED_WITHIN_S, MOVED_BY_M, STRENGTH = (1.0, 2.5), (0.02, 0.09), (0.2, 1.0)
UNKNOWN_COLOUR = "magenta"


@dataclass(frozen=True)
class Kind:
    """conditions: of the pictures, at their strongest. iterations: most that a decision may make (None: the checkpoint's).
    words: a wrong instruction. moves: an object is put elsewhere in the middle of the episode. longer: than any trained trail."""

    name: str
    seen: bool = False
    conditions: Conditions = field(default_factory=Conditions)
    iterations: int | None = None
    words: bool = False
    moves: bool = False
    longer: bool = False

    @property
    def nominal(self) -> bool:
        return self.name == NOMINAL

    def fits(self, task: str) -> bool:
        return not self.longer or plain(task) == FollowTrail.name

    def conditions_of(self, seed: int) -> Conditions:
        """The pictures' trouble in this seed's strength."""
        strength = float(np.random.default_rng((seed, 10)).uniform(*STRENGTH))
        given = self.conditions
        share = given.covered_share * strength if given.covered else given.covered_share
        scaled = {name: strength * getattr(given, name) for name in ("noise", "dropped", "shift_m", "turn_deg")}
        return replace(given, covered_share=share, **scaled)

    def task(self, task: str, seed: int) -> str:
        """Name of the task with its option."""
        return f"{plain(task)}:{LONGEST_DRAWN + 1 + seed % (LONGEST - LONGEST_DRAWN)}" if self.longer else task

    def instruction(self, task: str, seed: int) -> str | None:
        """What the policy is told; None: what the task says. A colour that is not on the table, or another task's sentence."""
        if not self.words:
            return None
        own = get_task(task).instruction_of(seed)
        for colour in COLOURS if plain(task) == FollowTrail.name else ():
            own = own.replace(f" {colour} ", f" {UNKNOWN_COLOUR} ")
        other = {"transfer_cube": "insertion", "insertion": "transfer_cube"}.get(plain(task))
        return get_task(other).instruction_of(seed) if other else own

    def halting(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The checkpoint's halting rule under this kind."""
        if self.iterations is None:
            return dict(settings)
        return {**settings, "iterations" if settings["rule"] == "fixed" else "max_iterations": self.iterations}


NOMINAL = "nominal"
KINDS = {
    kind.name: kind
    for kind in (
        Kind(NOMINAL, seen=True),
        Kind("noise", seen=True, conditions=Conditions(noise=80.0)),
        Kind("shifted camera", seen=True, conditions=Conditions(shift_m=0.035, turn_deg=2.0)),
        Kind("dropped frames", seen=True, conditions=Conditions(dropped=0.8)),
        Kind("covered wrist camera", conditions=Conditions(covered="right_wrist")),
        Kind("covered table", conditions=Conditions(covered="top", covered_share=0.15)),
        Kind("wrong words", words=True),
        Kind("moved object", moves=True),
        Kind("two iterations", iterations=2),
        Kind("longer trails", longer=True),
    )
}


def pattern_of(task: str) -> str:
    """The task's instruction; a * stands for the words that follow from the seed."""
    return INSTRUCTION.format("*") if plain(task) == FollowTrail.name else get_task(task).instruction_of(0)


def plain(task: str) -> str:
    return task.partition(":")[0]


def kinds_of(task: str, names: list[str] | None = None) -> list[Kind]:
    """The kinds that a task can have, of those named."""
    for name in names or ():
        if name not in KINDS:
            raise RdvlaError(f"Perturbation '{name}' does not exist. {nearest_names(name, KINDS)}")
    return [kind for kind in KINDS.values() if kind.fits(task) and (not names or kind.name in names)]


def planned(tasks: Sequence[str], rounds: int) -> Iterator[tuple[str, Kind, int]]:
    """(task, kind, seed), round by round, so that whatever was reached when the time is up is whole.

    Fit seeds have the nominal and the seen kinds; test seeds all kinds. No seed is in both.
    """
    for number in range(rounds):
        for task in tasks:
            for first, kinds in ((FIRST_FIT, [k for k in kinds_of(task) if k.seen]), (FIRST_TEST, kinds_of(task))):
                for kind in kinds:
                    if kind.nominal:
                        yield from ((task, kind, first + NOMINAL_A_ROUND * number + i) for i in range(NOMINAL_A_ROUND))
                    elif number % SPARSE == 0 or not (kind.words or kind.iterations):
                        yield task, kind, first + number


def in_fit_part(seed: int) -> bool:
    return FIRST_FIT <= seed < FIRST_TEST


class Mover:
    """Puts an object elsewhere, once, at a time that follows from the seed."""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng((seed, 9))
        self.at_s = float(self._rng.uniform(*MOVED_WITHIN_S))
        self._done = False

    def look(self, sim: AlohaSim) -> None:
        if self._done or sim.time_s < self.at_s:
            return
        self._done = True
        if sim.task.name == FollowTrail.name:
            self._swap_pads(sim)
        else:
            self._shift_object(sim)
        mujoco.mj_forward(sim.model, sim.data)

    def _shift_object(self, sim: AlohaSim) -> None:
        first = free_qpos(sim.model)
        which = int(self._rng.integers((sim.model.nq - first) // 7))
        angle, by_m = self._rng.uniform(0.0, 2.0 * np.pi), self._rng.uniform(*MOVED_BY_M)
        sim.data.qpos[first + 7 * which : first + 7 * which + 2] += by_m * np.array([np.cos(angle), np.sin(angle)])

    def _swap_pads(self, sim: AlohaSim) -> None:
        """The end and another pad change places."""
        others = [pad_body(colour) for colour in COLOURS if pad_body(colour) != sim.target]
        other = str(self._rng.choice(others))
        places = sim.model.body(sim.target).pos.copy(), sim.model.body(other).pos.copy()
        sim.model.body(sim.target).pos[:2], sim.model.body(other).pos[:2] = places[1][:2], places[0][:2]
