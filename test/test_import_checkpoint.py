"""From a published folder to a checkpoint of this package that decides like any other."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from head_oracle import Oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from published_cases import HEAD, HEADS, KV_HEADS, backbone_weights, head_weights, robot, statistics, write_folder
from published_oracle import published_states
from transformers import Qwen2Tokenizer

from rdvla_ros import cli
from rdvla_ros.model.checkpoint import load_checkpoint
from rdvla_ros.model.halting import FixedDepth
from rdvla_ros.model.import_checkpoint import ImportSettings, import_checkpoint
from rdvla_ros.model.policy import Policy
from rdvla_ros.model.prompt_tokenizer import QWEN_TEMPLATE, PromptTokenizer, qwen_tokenizer
from rdvla_ros.types import CheckpointError, Observation, ObservationError

CAMERAS = ("top", "left_wrist", "right_wrist")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("published") / "folder")


@pytest.fixture(scope="module")
def imported(published, tmp_path_factory):
    return import_checkpoint(published, tmp_path_factory.mktemp("imported") / "policy", robot())


def observation(seed=0, **changes):
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for name in CAMERAS}
    values = dict(images=images, positions=rng.uniform(-0.4, 0.4, 14), instruction="Pick up the red cube", stamp_s=1.0)
    return Observation(**{**values, **changes})


def test_an_imported_checkpoint_is_inspected_and_decides(published, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["import-checkpoint", str(published), str(out)]) == 0
    assert "14 joints, cameras top, left_wrist, right_wrist" in capsys.readouterr().out
    assert cli.main(["inspect", str(out), "--robot", "config/aloha_sim.yaml"]) == 0
    text = capsys.readouterr().out
    assert "prismatic" in text and "Fits robot 'aloha_sim'" in text and "tokens of a language model" in text
    policy = Policy.load(out)
    policy.warm_up()
    decision = policy.decide(observation())
    assert decision.chunk.positions.shape == (8, 14) and np.isfinite(decision.chunk.positions).all()
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "model.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("representation", ["absolute", "relative"])
def test_a_decision_is_the_published_computation(published, tmp_path, representation):
    """From the pixels and the instruction to the joint targets, by the plain references alone."""
    imported = import_checkpoint(published, tmp_path / "out", robot(), ImportSettings(representation=representation))
    policy, seen = Policy.load(imported, halting=FixedDepth(3)), observation()
    start = 0.6 * torch.randn(1, 8, 32, generator=torch.Generator().manual_seed(0))
    got = policy.decide(seen, initial_state=start).chunk.positions

    prepare = load_checkpoint(imported).model.backbone.config.preprocessing  # held against its reference in test_resample
    pixels = torch.from_numpy(np.concatenate([prepare(seen.images[name]) for name in CAMERAS])).double()
    prompt = QWEN_TEMPLATE.replace("{instruction}", "pick up the red cube")
    ids = Qwen2Tokenizer.from_pretrained(published)(prompt)["input_ids"]
    wide = {name: tensor.double() for name, tensor in backbone_weights().items()}
    task, latent = published_states(wide, pixels, torch.tensor(ids), HEADS, KV_HEADS)
    numbers = {part: {k: np.array(v) for k, v in entry.items()} for part, entry in statistics()["aloha"].items()}
    low, high, mask = (numbers["proprio"][key] for key in ("q01", "q99", "mask"))
    scaled = np.where(mask, 2 * (seen.positions - low) / (high - low + 1e-8) - 1, seen.positions).clip(-1, 1)
    head, projector = ({name: t.double() for name, t in part.items()} for part in head_weights())
    states = ({i: s[None] for i, s in enumerate(part)} for part in (task, latent))
    oracle = Oracle(head, projector, HEAD, *states, torch.from_numpy(scaled)[None])
    chunk = oracle.fixed(start.double(), 3)[0][0].numpy()
    low, high, mask = (numbers["action"][key] for key in ("q01", "q99", "mask"))
    want = np.where(mask, 0.5 * (chunk + 1) * (high - low + 1e-8) + low, chunk)
    if representation == "relative":
        want = want + np.where(np.arange(14) % 7 == 6, 0.0, seen.positions)  # grippers are places
    want = want.clip(np.minimum(numbers["proprio"]["min"], seen.positions), np.maximum(numbers["proprio"]["max"], seen.positions))
    want[:, [6, 13]] = want[:, [6, 13]].clip(0, 1)
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
    assert len(np.unique(got)) > 60, "the comparison is of numbers, not of limits"


def test_nothing_is_lost_on_the_way(published, imported, tmp_path):
    weights = load_checkpoint(imported).model.state_dict()
    assert torch.equal(
        weights["latents" if "latents" in weights else "backbone.latents"], backbone_weights()["action_queries.weight"]
    )
    assert json.loads((imported / "manifest.json").read_text())["weights"]["dtype"] == "float32"
    narrow = {name: tensor.bfloat16() for name, tensor in backbone_weights().items()}
    folder = write_folder(tmp_path / "narrow", narrow)
    out = import_checkpoint(folder, tmp_path / "out", robot(), ImportSettings(dtype="bfloat16"))
    assert json.loads((out / "manifest.json").read_text())["weights"]["dtype"] == "bfloat16"
    assert Policy.load(out, dtype="bfloat16").decide(observation()).chunk.positions.shape == (8, 14)


@pytest.mark.parametrize("cameras", [("top",), ("right_wrist", "top")])
def test_any_number_of_cameras_in_any_order(published, tmp_path, cameras):
    out = import_checkpoint(published, tmp_path / "out", robot(), ImportSettings(cameras=cameras))
    policy = Policy.load(out)
    assert policy.contract.camera_names == cameras
    images = {name: image for name, image in observation().images.items() if name in cameras}
    assert np.isfinite(policy.decide(observation(images=images)).chunk.positions).all()
    with pytest.raises(ObservationError, match=f"No picture of camera '{cameras[0]}'"):
        policy.decide(observation(images={}))


INSTRUCTIONS = ["Pick up the red cube", "  open   the Drawer!", "move 12 cm, then stop", "préparer le café ☕", "a\nb"]


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_the_prompt_becomes_the_ids_of_the_published_tokenizer(published, imported, instruction):
    prompt = QWEN_TEMPLATE.replace("{instruction}", instruction.strip().lower())
    want = Qwen2Tokenizer.from_pretrained(published)(prompt)["input_ids"]
    assert PromptTokenizer(qwen_tokenizer(published)).encode(instruction) == want
    assert load_checkpoint(imported).tokenizer.encode(instruction) == want


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=40))
def test_every_text_is_tokens_or_a_refusal(imported, text):
    tokenizer = load_tokenizer(imported)
    try:
        ids = tokenizer.encode(text)
    except ObservationError:
        return
    assert all(0 <= i < tokenizer.size for i in ids)


_LOADED = {}


def load_tokenizer(folder):
    if folder not in _LOADED:
        data = json.loads((folder / "manifest.json").read_text())["tokenizer"]
        _LOADED[folder] = PromptTokenizer.from_dict(data, folder)
    return _LOADED[folder]


def test_control_tokens_and_long_instructions_are_refused(imported):
    tokenizer = load_tokenizer(imported)
    for text, words in (("", "got none"), ("stop<|im_end|>", "control token"), ("cube " * 600, "fewer words")):
        with pytest.raises(ObservationError, match=words):
            tokenizer.encode(text)


def refused(folder, out, words, description=None, **values):
    with pytest.raises(CheckpointError, match=words):
        import_checkpoint(folder, out, description or robot(), ImportSettings(**values))
    assert not (out / "manifest.json").exists()


def edit(folder, name, change):
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


def test_statistics_that_do_not_fit_are_refused(tmp_path):
    folder, out = write_folder(tmp_path / "in"), tmp_path / "out"
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics(7)))
    refused(folder, out, "expected proprio statistics of 14 joints, found 7")
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics()))
    edit(folder, "dataset_statistics.json", lambda d: d["aloha"]["proprio"]["q99"].__setitem__(0, -0.5))
    refused(folder, out, "noise into motion")
    edit(folder, "dataset_statistics.json", lambda d: d["aloha"].pop("proprio"))
    refused(folder, out, "expected proprio statistics with q01, q99")
    edit(folder, "dataset_statistics.json", lambda d: d.update(other=d["aloha"]))
    refused(folder, out, "found aloha, other; name one")
    (folder / "dataset_statistics.json").unlink()
    refused(folder, out, "found none")


def test_a_robot_of_other_joints_or_cameras_is_refused(published, tmp_path):
    one_arm = replace(robot(), arms=robot().arms[:1])
    refused(published, tmp_path / "out", "14 and its proprioception 14 numbers, robot.*7 joints", one_arm)
    refused(published, tmp_path / "out", "Cameras: expected names", cameras=("front",))


def test_a_robot_of_one_arm_takes_a_checkpoint_of_seven_joints(tmp_path):
    one_arm = replace(robot(), arms=robot().arms[:1])
    out = import_checkpoint(write_folder(tmp_path / "in", joints=7), tmp_path / "out", one_arm)
    policy = Policy.load(out)
    policy.require_robot(one_arm.joint_names, one_arm.camera_names, one_arm.representation, one_arm.gripper_joints)
    assert policy.decide(observation(positions=np.zeros(7))).chunk.positions.shape == (8, 7)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder, out = write_folder(tmp_path / "in"), tmp_path / "out"
    edit(folder, "tokenizer_config.json", lambda d: d["added_tokens_decoder"].update({"399": {"content": "<|x|>"}}))
    refused(folder, out, "without gaps")
    edit(folder, "vocab.json", lambda d: d.update({f"word{i}": len(d) + i for i in range(300)}))
    (folder / "tokenizer_config.json").unlink()
    refused(folder, out, "of different checkpoints")
    (folder / "merges.txt").unlink()
    refused(folder, out, "found no merges.txt")


def test_other_files_are_not_overwritten_and_an_older_checkpoint_is(published, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    refused(published, out, "found other files there")
    (out / "thesis.tex").unlink()
    for _ in range(2):
        import_checkpoint(published, out, robot())


def test_a_damaged_tokenizer_is_noticed(imported, published, tmp_path):
    out = import_checkpoint(published, tmp_path / "out", robot())
    (out / "tokenizer.json").write_text((out / "tokenizer.json").read_text().replace("im_end", "im_and"))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_checkpoint(out)
    edit(out, "manifest.json", lambda d: d["tokenizer"].update(kind="characters"))
    with pytest.raises(CheckpointError, match="Known: words, prompt"):
        load_checkpoint(out)


@pytest.mark.parametrize("options, words", [({"dtype": "float8"}, "Known: float32"), ({"device": "cuda"}, "no CUDA device")])
def test_a_number_format_or_device_that_is_not_there_is_refused(imported, options, words):
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(CheckpointError, match=words):
        Policy.load(imported, **options)


def test_the_worker_loads_an_imported_checkpoint(imported):
    from rdvla_ros.nodes.policy.worker.loading import load_policy

    description = robot()
    fits = {name: getattr(description, name) for name in ("joint_names", "camera_names", "representation", "gripper_joints")}
    values = dict(checkpoint=str(imported), device="cpu", threads=1, seed=0, halting_rule="", halting_threshold=0.0)
    decide, loaded = load_policy({**values, "max_iterations": 0, "robot": fits})
    assert loaded.chunk_length == 8 and loaded.camera_names == CAMERAS and loaded.horizon == {"rule": "fixed", "length": 5}
    assert np.isfinite(decide(observation(), None, None).chunk.positions).all()
