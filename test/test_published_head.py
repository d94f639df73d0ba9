"""Reading published head folders: every layout that exists, and a clear refusal of everything else."""

from __future__ import annotations

import json

import pytest
import torch
from head_cases import SMALL, oracle_case, relative_error, write_published_folder

from rdvla_ros.model.halting import FixedDepth
from rdvla_ros.model.published import load_head
from rdvla_ros.types import CheckpointError


@pytest.fixture
def weights():
    head, projector, inputs, oracle = oracle_case(SMALL, 1, 5)
    return head, projector, inputs, oracle


def result(head, inputs):
    *states, start = inputs
    with torch.no_grad():
        return head.refine(head.encode(*states), FixedDepth(3), start).actions


@pytest.mark.parametrize("prefix", ["model.", "module.model.", "model.module.", "module.", ""])
@pytest.mark.parametrize("step", ["40000", "latest"])
def test_every_prefix_and_step_reads_the_same(tmp_path, weights, prefix, step):
    head, projector, inputs, oracle = weights
    folder = write_published_folder(tmp_path, SMALL, head, projector, prefix=prefix, step=step)
    loaded = load_head(folder)
    assert not loaded.training and loaded.config.rotary_form == "published"
    assert relative_error(result(loaded, inputs), oracle.fixed(inputs[3], 3)[0]) < 1e-4


def test_scalars_and_queries_may_carry_dimensions_of_one(tmp_path, weights):
    head, projector, inputs, oracle = weights
    shaped = {
        **head,
        "gamma_adapt": head["gamma_adapt"].view(1),
        "gamma_init": head["gamma_init"].view(1, 1, 1),
        "action_queries": head["action_queries"].unsqueeze(0),
        "coda.0.gate": head["coda.0.gate"].view(()),
    }
    loaded = load_head(write_published_folder(tmp_path, SMALL, shaped, projector))
    assert relative_error(result(loaded, inputs), oracle.fixed(inputs[3], 3)[0]) < 1e-4


def test_a_gamma_per_channel_scales_the_adapter(tmp_path, weights):
    head, projector, inputs, oracle = weights
    head["gamma_adapt"] = torch.linspace(0.5, 2.0, SMALL.hidden_dim)
    loaded = load_head(write_published_folder(tmp_path, SMALL, head, projector))
    assert relative_error(result(loaded, inputs), oracle.fixed(inputs[3], 3)[0]) < 1e-4


def test_weights_in_half_precision_are_widened_or_kept(tmp_path, weights):
    head, projector, inputs, _ = weights
    narrow = [{name: tensor.bfloat16() for name, tensor in d.items()} for d in (head, projector)]
    folder = write_published_folder(tmp_path, SMALL, *narrow)
    assert load_head(folder).dtype == torch.float32
    assert load_head(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_folder_of_several_steps_wants_one_named(tmp_path, weights):
    head, projector, *_ = weights
    for step in ("40000", "75000"):
        write_published_folder(tmp_path, SMALL, head, projector, step=step)
    with pytest.raises(CheckpointError, match="found steps 40000, 75000; name one with step="):
        load_head(tmp_path)
    with pytest.raises(CheckpointError, match="of step 1, found steps"):
        load_head(tmp_path, step=1)
    assert load_head(tmp_path, step=75000).config.action_dim == SMALL.action_dim
    write_published_folder(tmp_path, SMALL, head, projector, step="latest")
    load_head(tmp_path)


def refused(folder, *words):
    with pytest.raises(CheckpointError) as error:
        load_head(folder)
    for word in words:
        assert word in str(error.value)


def test_folders_that_are_something_else_are_refused(tmp_path):
    refused(tmp_path / "nowhere", "expected a published checkpoint folder, found no folder")
    refused(tmp_path, "expected action_head--<step>_checkpoint.pt, found nothing")
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path, "found model.safetensors")


@pytest.mark.parametrize("name", ["proprio_projector--40000_checkpoint.pt", "action_head_config--40000_checkpoint.json"])
def test_a_folder_that_lacks_a_file_is_refused(tmp_path, weights, name):
    write_published_folder(tmp_path, SMALL, *weights[:2])
    (tmp_path / name).unlink()
    refused(tmp_path, name, "expected")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, weights, keep):
    write_published_folder(tmp_path, SMALL, *weights[:2])
    path = tmp_path / "action_head--40000_checkpoint.pt"
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    refused(tmp_path, "action_head--40000_checkpoint.pt", "expected a whole PyTorch file")


class Foreign:
    """An object that only an unsafe reader would make."""


@pytest.mark.parametrize(
    "content, words",
    [
        (Foreign(), "expected a whole PyTorch file of plain tensors"),
        ([torch.zeros(2)], "found list"),
        ({"step": 3}, "found a mapping of other things"),
    ],
)
def test_files_of_other_content_are_refused(tmp_path, weights, content, words):
    write_published_folder(tmp_path, SMALL, *weights[:2])
    torch.save(content, tmp_path / "action_head--40000_checkpoint.pt")
    refused(tmp_path, words)


def test_missing_and_surplus_tensors_are_named(tmp_path, weights):
    head, projector, *_ = weights
    del head["recurrent.1.k_vision.weight"]
    head["lm_head.weight"] = torch.zeros(3)
    write_published_folder(tmp_path, SMALL, head, projector)
    refused(tmp_path, "missing recurrent.1.k_vision.weight; not expected lm_head.weight")


@pytest.mark.parametrize(
    "name, tensor, words",
    [
        ("output_proj.weight", torch.zeros(14, 32), "output.weight: expected 7 x 32, found 14 x 32"),
        ("adapter.weight", torch.zeros(32, 32), "adapter.weight: expected 32 x 64, found 32 x 32"),
        ("prelude.0.k_self.weight", torch.zeros(16, 32), "prelude.0.k_self.weight: expected 32 x 32, found 16 x 32"),
        ("prelude.0.ffn_up.weight", torch.zeros(32, 32), "prelude.0.ffn_up.weight: expected 128 x 32, found 32 x 32"),
        ("gamma_init", torch.ones(2), "gamma_init: expected one number, found 2"),
        ("coda.0.gate", torch.ones(4), "coda.0.gate: expected one number, found 4"),
        ("coda.0.o_self.weight", torch.full((32, 32), torch.nan), "NaN or infinity in coda.0.o_self.weight"),
    ],
)
def test_tensors_of_wrong_size_or_content_are_named(tmp_path, weights, name, tensor, words):
    head, projector, *_ = weights
    head[name] = tensor
    write_published_folder(tmp_path, SMALL, head, projector)
    refused(tmp_path, words)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"hidden_dim": 30}, "describes no head: hidden_dim"),
        ({"num_heads": "many"}, "num_heads: expected a whole number"),
        ({"recurrent_vlm_layers": [3, 3, 3]}, "missing recurrent.2."),
        ({"coda_vlm_layers": []}, "coda_layers: expected at least one"),
        ({"rope_base": None}, "rope_base: expected a finite number"),
    ],
)
def test_settings_that_do_not_fit_are_named(tmp_path, weights, settings, words):
    write_published_folder(tmp_path, SMALL, *weights[:2], **settings)
    refused(tmp_path, words)


def test_a_configuration_that_is_no_json_object_is_refused(tmp_path, weights):
    write_published_folder(tmp_path, SMALL, *weights[:2])
    path = tmp_path / "action_head_config--40000_checkpoint.json"
    for content, words in (
        ("{", "expected JSON"),
        ("[1]", "found list"),
        (json.dumps({"hidden_dim": 32}), "expected num_heads, prelude_vlm_layers"),
    ):
        path.write_text(content)
        refused(tmp_path, words)


def test_a_projector_of_another_robot_is_refused(tmp_path, weights):
    head, projector, *_ = weights
    projector["fc2.weight"] = torch.zeros(16, 32)
    write_published_folder(tmp_path, SMALL, head, projector)
    refused(tmp_path, "proprio.fc2.weight: expected 32 x 32, found 16 x 32")
    write_published_folder(tmp_path, SMALL, head, {"fc1.weight": projector["fc1.weight"]})
    refused(tmp_path, "expected fc1 and fc2 with weight and bias")
