"""The recipes that the bench compares, one change each."""

from __future__ import annotations

from dataclasses import replace

from rdvla_ros.learning.config import DepthSampler
from rdvla_ros.learning.evaluation.symbols.reader import ReaderConfig
from rdvla_ros.learning.evaluation.symbols.training import Recipe

DEFAULT = Recipe(
    "partial targets, naming helper, one core layer, K = 1, gradient through 6, depth drawn around 5, curriculum from 0 hops"
)


def _reader(title: str, **changes) -> Recipe:
    return replace(DEFAULT, title=title, reader=replace(ReaderConfig(), **changes))


def _depth(title: str, mean: float, **changes) -> Recipe:
    return replace(DEFAULT, title=title, depth=DepthSampler(mean=mean, shallow_fraction=0.0, limit=24), **changes)


def _always(depth: int) -> DepthSampler:
    return DepthSampler(mean=float(depth), sigma=0.0, shallow_fraction=0.0, fixed=depth)


SHALLOW = DepthSampler(mean=5.0, shallow_fraction=0.5, shallow_limit=4, limit=24)
RECIPES = {
    "default": DEFAULT,
    "unnamed": replace(DEFAULT, title="partial targets without the naming helper", naming_weight=0.0),
    "final": replace(DEFAULT, title="final target only", partial=False),
    "shallow": replace(DEFAULT, title="final target, half of the batches 1..4 deep, loss on a shallower state", partial=False,
                       depth=SHALLOW, early_weight=0.3),
    "all_at_once": replace(DEFAULT, title="no curriculum", curriculum=False),
    "from_one": replace(DEFAULT, title="curriculum from 1 hop", first_level=1),
    "k4": _reader("K = 4 rows", rows=4),
    "core2": _reader("two core layers", core_layers=2),
    "backprop1": replace(DEFAULT, title="gradient through 1 iteration", backprop_depth=1),
    "backprop3": replace(DEFAULT, title="gradient through 3", backprop_depth=3),
    "backprop12": replace(DEFAULT, title="gradient through 12", backprop_depth=12),
    "mean2": _depth("depth drawn around 2.5", 2.5),
    "mean8": _depth("depth drawn around 8", 8.0),
    "zeros": _reader("scratchpad starts from zeros", head={"initial_state": "zeros"}),
    "two_embeddings": _reader("colours of pads, marks and words embedded apart", shared_colours=False),
    "gated": _reader("pads behind the vision gates", pads_as="vision"),
    # Controls. Equal evaluations: what 8 iterations evaluate, every layer with weights of its own. Equal parameters: one pass.
    "unshared": replace(_reader("8 sets of core layers, once each (no recurrence)", head={"unshared_iterations": 8}),
                        depth=_always(8), backprop_depth=8, partial=False),
    "unshared_partial": replace(_reader("8 sets of core layers, partial targets", head={"unshared_iterations": 8}),
                                depth=_always(8), backprop_depth=8),
    "once": replace(DEFAULT, title="one pass through the core (no recurrence)", depth=_always(1), backprop_depth=1,
                    partial=False),
}  # fmt: skip
