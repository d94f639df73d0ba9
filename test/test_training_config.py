"""A training configuration is refused before anything is read: place, what was expected, the value."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rdvla_ros.learning import schema
from rdvla_ros.learning.config import Augmentation, DataSettings, DepthSampler, ModelSettings, TrainConfig
from rdvla_ros.learning.schema import TrainingError
from rdvla_ros.model.backbones.compact import CameraInput

CAMERA = "{name: top, width: 120, height: 72}"


def _load(text: str) -> TrainConfig:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.yaml"
        file.write_text(text, encoding="utf-8")
        return TrainConfig.load(file)


REFUSED = {
    "an exponent that YAML takes for text": (
        "learning_rate: 8e-4",
        "train.yaml: learning_rate: expected a finite number of at least 0, got text '8e-4'. YAML takes 8e-4 for text: write it "
        "with a point",
    ),
    "null": ("steps: null", "train.yaml: steps: expected a whole number of at least 1, got nothing"),
    "NaN": ("learning_rate: .nan", "learning_rate: expected a finite number of at least 0, got nan"),
    "infinity": ("weight_decay: .inf", "weight_decay: expected a finite number of at least 0, got inf"),
    "negative": ("learning_rate: -1.0e-3", "learning_rate: expected a finite number of at least 0, got -0.001"),
    "bool": ("batch_size: true", "batch_size: expected a whole number of at least 1, got the truth value True"),
    "bool as a number": ("ema_decay: yes", "ema_decay: expected a finite number of at least 0 and at most 1, got the truth"),
    "a number as bool": ("data: {resample: 1}", "data: resample: expected true or false, got 1"),
    "a half step": ("steps: 10.5", "steps: expected a whole number of at least 1, got 10.5"),
    "text as a list": ("model: {core_layers: '12'}", "model: core_layers: expected a list (a whole number of at least 0 each)"),
    "an entry": ("betas: [0.9, null]", "betas[1]: expected a finite number of at least 0 and at most 0.9999, got nothing"),
    "too few entries": ("betas: [0.9]", "betas: expected a list of 2, got 1"),
    "a camera's width": (
        "model: {cameras: [{name: top, width: 12.5, height: 72}]}",
        "model: cameras[0]: width: expected a whole number, got 12.5",
    ),
    "a camera too small": (
        "model: {cameras: [{name: top, width: 4, height: 4}]}",
        "model: cameras[0]: Camera 'top': expected at least 16",
    ),
    "a camera without a name": ("model: {cameras: [{width: 120, height: 72}]}", "model: cameras[0]: missing key 'name'"),
    "no cameras": ("model: {cameras: []}", "model: cameras: expected at least one"),
    "a camera twice": (f"model: {{cameras: [{CAMERA}, {CAMERA}]}}", "model: cameras: expected at least one, each name once"),
    "keypoints 0": (
        "model: {cameras: [{name: top, width: 120, height: 72, keypoints: 0}]}",
        "model: cameras[0]: keypoints: expected at least 1, got 0",
    ),
    "heads that do not divide": (
        "model: {hidden_dim: 190}",
        "model: hidden_dim: expected a multiple of 2 * num_heads (12), got 190",
    ),
    "a layer that is not there": (
        "model: {coda_layers: [3]}",
        "model: coda_layers: expected layers of the backbone, 0 .. 2, got [3]",
    ),
    "labels shorter than chunks": ("label_rows: 4", "label_rows: expected at least model.chunk_length (8), got 4"),
    "a unit": ("data: {units: deg}", "data: units: expected radians or degrees, got text 'deg'. Known: radians, degrees."),
    "a gripper range": ("data: {gripper_range: [5, 5]}", "data: gripper_range: expected two different numbers"),
    "a gripper said twice": ("data: {gripper_range: [0, 9], gripper_units: controller}", "expected no gripper_units beside it"),
    "a camera that the model has not": ("data: {cameras: {front: observation.images.top}}", "the model has no camera 'front'"),
    "no state": ("data: {state: []}", "data: state: expected features of the dataset"),
    "a section null": ("depth: null", "train.yaml: depth: expected a mapping, got nothing"),
    "a section as a list": ("model: [1]", "train.yaml: model: expected a mapping, got the list [1]"),
    "a key twice": ("steps: 3\nsteps: 4", "train.yaml is not readable YAML: key 'steps' in line 2 stands already in line 1"),
    "no YAML": ("steps: [", "train.yaml is not readable YAML"),
    "a date": ("seed: 2026-11-28", "seed: expected a whole number of at least 0, got 2026-11-28"),
    "an impossible date": ("seed: 2026-99-99", "train.yaml is not readable YAML"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_value_is_named_with_its_place(name):
    text, message = REFUSED[name]
    with pytest.raises(TrainingError) as error:
        _load(text)
    assert message in str(error.value) and "\n" not in str(error.value)


def _fields(cls: type, place: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], typing.Any]]:
    """(place, annotation) of every value of a configuration."""
    found = []
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        found += _fields(hint, (*place, name)) if dataclasses.is_dataclass(hint) else [((*place, name), hint)]
    return found


FIELDS = _fields(TrainConfig)
WRONG = (
    st.none()
    | st.booleans()
    | st.text(max_size=6)
    | st.sampled_from([math.nan, math.inf, -math.inf, "8e-4", "1"])
    | st.integers(-(2**65), -1)
    | st.floats(max_value=-1e-9)
    | st.lists(st.none() | st.text(max_size=2) | st.integers(-9, -1), min_size=1, max_size=3)
    | st.dictionaries(
        st.text("abc", min_size=1, max_size=3), st.none() | st.lists(st.integers(), max_size=1), min_size=1, max_size=2
    )
)


def _allowed(hint: typing.Any, value: typing.Any) -> bool:
    """An independent reading of the annotations."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        bounds = [bound.holds(value) for bound in inner[1:]] if _allowed(inner[0], value) else [False]
        return all(bounds)
    if origin is tuple:
        kinds = inner[:1] * len(value) if isinstance(value, list) and inner[-1] is ... else inner
        return isinstance(value, list) and len(kinds) == len(value) and all(map(_allowed, kinds, value))
    if dataclasses.is_dataclass(hint):
        return isinstance(value, dict)
    if origin is not None and not isinstance(origin, type) or hint is type(None):
        return any(_allowed(part, value) for part in inner) if inner else value is None
    if origin is not None and issubclass(origin, typing.Mapping):
        return isinstance(value, dict) and all(_allowed(inner[1], item) for item in value.values())
    if inner:
        return any(_allowed(part, value) for part in inner)
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint is str or isinstance(value, str):
        return hint is str and isinstance(value, str)
    return isinstance(value, int | float) and math.isfinite(value) and (hint is float or isinstance(value, int))


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(FIELDS), WRONG)
def test_any_value_of_a_wrong_type_or_range_is_named_with_its_place(field, value):
    """Written as YAML and read as a training reads it: the last key of the place and the file are in the message."""
    place, hint = field
    assume(not _allowed(hint, value))
    data: typing.Any = value
    for key in reversed(place):
        data = {key: data}
    with pytest.raises(TrainingError) as error:
        _load(yaml.safe_dump(data))
    text = str(error.value)
    assert "train.yaml" in text and f"{place[-1]}" in text and ("expected" in text or "unknown key" in text) and "\n" not in text


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_text_is_a_configuration_or_a_training_error(text):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        try:
            config = TrainConfig.load(file)
        except TrainingError as error:
            assert "train.yaml" in str(error)
        else:
            assert config == TrainConfig()


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 10**6),
    st.floats(0, 1),
    st.booleans(),
    st.sampled_from(["radians", "degrees"]),
    st.lists(st.text("abc.", min_size=1, max_size=8), min_size=1, max_size=3, unique=True),
)
def test_every_right_configuration_is_read_as_it_was_written(steps, rate, resample, units, state):
    config = TrainConfig(
        steps=steps,
        decay_steps=0,
        learning_rate=rate,
        data=DataSettings(resample=resample, units=units, state=state, gripper_range=(0, 100)),
        augmentation=Augmentation(shift_px={"top": 0}),
    )
    assert _load(yaml.safe_dump(config.to_dict())) == config


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainConfig(steps=0),
        lambda: TrainConfig(learning_rate=math.nan),
        lambda: DepthSampler(sigma=-1.0),
        lambda: DataSettings(step_s=0.0),
        lambda: Augmentation(word_dropout=1.5),
        lambda: ModelSettings(cameras=(CameraInput("top", 120, 72),), num_heads=True),
    ],
)
def test_a_configuration_made_in_python_is_checked_alike(make):
    with pytest.raises(TrainingError, match="expected"):
        make()


def test_options_of_the_command_are_checked_alike():
    with pytest.raises(TrainingError, match="training configuration: learning_rate: expected a finite number.*got nan"):
        TrainConfig.load(None, {"learning_rate": math.nan})


def test_a_default_that_breaks_its_own_range_would_be_found():
    @dataclasses.dataclass(frozen=True)
    class Wrong:
        count: schema.Count = 0

        def __post_init__(self):
            schema.check_fields(self)

    with pytest.raises(TrainingError, match="count: expected a whole number of at least 1, got 0"):
        Wrong()
