"""The head as others use it: configuration, refused input, gradients, initialisation, scratchpads, memory."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rdvla_ros.model.checks import HeadInputError
from rdvla_ros.model.config import HeadConfig, HeadConfigError
from rdvla_ros.model.halting import ActionChange, FixedDepth
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.initial_state import Previous, StartError, make_start, shift_plan
from rdvla_ros.types import StopReason

CONFIG = HeadConfig(
    hidden_dim=32,
    num_heads=4,
    prelude_layers=(1,),
    core_layers=(3, 3),
    coda_layers=(3,),
    chunk_length=8,
    action_dim=6,
    proprio_dim=5,
)


def make_head(config=CONFIG, seed=0):
    head = RDVLAHead(config)
    head.reset_parameters(torch.Generator().manual_seed(seed))
    return head.eval()


def make_inputs(batch=2, config=CONFIG, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    return (
        {i: draw(batch, 10, config.context_width) for i in config.context_layers},
        {i: draw(batch, 4, config.context_width) for i in config.context_layers},
        draw(batch, config.proprio_dim),
    )


# --- configuration


def test_a_configuration_survives_json():
    for config in (CONFIG, replace(CONFIG, scratchpad_rows=4, context_dim=20, initial_state="zeros", rotary_form="published")):
        assert HeadConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"hidden_dim": 33}, "num_heads (4) times an even head width"),
        ({"hidden_dim": 36}, "even head width"),
        ({"num_heads": 0}, "num_heads: expected a whole number of at least 1, got 0"),
        ({"core_layers": ()}, "core_layers: expected at least one"),
        ({"coda_layers": (-1,)}, "expected indices 0, 1, ... of backbone layers, got -1"),
        ({"core_layers": 3}, "expected a list"),
        ({"scratchpad_rows": 3}, "a divisor of it, got 3"),
        ({"initial_state": "gaussian"}, "Known: truncated_normal, normal, zeros"),
        ({"rotary_form": "standart"}, "Did you mean 'standard'"),
        ({"init_std": math.nan}, "finite number above 0"),
        ({"action_dim": 7.0}, "whole number"),
    ],
)
def test_a_configuration_of_no_head_is_refused(changes, words):
    with pytest.raises(HeadConfigError) as error:
        replace(CONFIG, **changes)
    assert words in str(error.value)


def test_unknown_and_missing_keys_are_named():
    values = CONFIG.to_dict()
    with pytest.raises(HeadConfigError, match="unknown key 'hiden_dim'.*Did you mean 'hidden_dim'"):
        HeadConfig.from_dict({**values, "hiden_dim": 3})
    del values["chunk_length"]
    with pytest.raises(HeadConfigError, match="missing chunk_length"):
        HeadConfig.from_dict(values)


@pytest.mark.parametrize("rows", [None, 12, 4, 1])
def test_any_number_of_scratchpad_rows_gives_a_chunk(rows):
    config = replace(CONFIG, scratchpad_rows=rows)
    head = make_head(config)
    got = head.refine(head.encode(*make_inputs()), FixedDepth(3))
    assert got.actions.shape == (2, 8, 6) and got.state.shape == (2, rows or 8, 32)


def test_backbones_of_another_width():
    config = replace(CONFIG, context_dim=20)
    head = make_head(config)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            assert head.refine(head.encode(*make_inputs(config=config)), FixedDepth(2)).actions.shape == (2, 8, 6)


# --- refused input


def spoiled(change):
    task, latent, proprio = make_inputs()
    return {
        "wrong width": ({1: task[1], 3: task[3][..., :-1]}, latent, proprio),
        "other batch": (task, {1: latent[1], 3: latent[3][:1]}, proprio),
        "flat": (task, latent, proprio[0]),
        "no rows": ({1: task[1], 3: task[3][:, :0]}, latent, proprio),
        "double": ({1: task[1], 3: task[3].double()}, latent, proprio),
        "integers": (task, latent, proprio.long()),
        "missing layer": ({1: task[1], 2: task[3]}, latent, proprio),
        "array": (task, latent, proprio.numpy()),
        "nan": (task, {1: latent[1], 3: latent[3].index_fill(1, torch.tensor(2), math.nan)}, proprio),
        "infinity": (task, latent, proprio / 0),
    }[change]


@pytest.mark.parametrize(
    "change, words",
    [
        ("wrong width", "task_states[3]: expected shape 2 x any x 32, got 2 x 10 x 31"),
        ("other batch", "latent_states[3]: expected shape 2 x any x 32, got 1 x 4 x 32"),
        ("flat", "proprio: expected shape any x 5, got 5"),
        ("no rows", "task_states[3]: expected shape 2 x any x 32, got 2 x 0 x 32"),
        ("double", "task_states[3]: expected torch.float32 like the head's weights, got torch.float64"),
        ("integers", "proprio: expected torch.float32"),
        (
            "missing layer",
            "task_states: expected hidden states of backbone layer 3; got layers [1, 2]. The head reads layers [1, 3]",
        ),
        ("array", "proprio: expected a tensor, got ndarray"),
        ("nan", "NaN or infinity in latent_states[3]"),
        ("infinity", "NaN or infinity in proprio"),
    ],
)
def test_input_that_does_not_fit_is_refused_before_any_work(change, words):
    head = make_head()
    for module in head.modules():
        module.register_forward_pre_hook(lambda *args: pytest.fail("worked on refused input"))
    with pytest.raises(HeadInputError) as error:
        head.encode(*spoiled(change))
    assert words in str(error.value)


def test_an_initial_state_that_does_not_fit_is_refused():
    head = make_head()
    context = head.encode(*make_inputs())
    for state, words in (
        (torch.zeros(2, 7, 32), "expected shape 2 x 8 x 32, got 2 x 7 x 32"),
        (torch.zeros(1, 8, 32), "got 1 x 8 x 32"),
        (torch.zeros(2, 8, 32).double(), "expected torch.float32"),
        (torch.full((2, 8, 32), math.nan), "NaN or infinity"),
    ):
        with pytest.raises(HeadInputError) as error:
            head.refine(context, FixedDepth(2), state)
        assert words in str(error.value)


# --- training


def test_every_parameter_that_matters_gets_a_gradient():
    head = make_head().train()
    context = head.encode(*make_inputs())
    state = head.initial_state(2, torch.Generator().manual_seed(0))
    for _ in range(3):
        state = head.iterate(context, state)
    head.decode(context, state).square().mean().backward()
    silent = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert set(silent) <= {"gamma_adapt"}  # a scale before a norm: its gradient is near nothing and may round to it
    assert head.gamma_adapt.grad is not None


def test_gradients_are_finite_differences():
    head = make_head().double()
    inputs = make_inputs(1, dtype=torch.float64)
    start = head.initial_state(1, torch.Generator().manual_seed(2)).detach()

    def loss():
        context = head.encode(*inputs)
        state = head.iterate(context, head.iterate(context, start))
        return head.decode(context, state).square().sum()

    loss().backward()
    for name, parameter in head.named_parameters():
        if name == "gamma_init":
            continue  # the start is given
        flat, place, step = parameter.data.view(-1), parameter.numel() // 2, 1e-6
        value = float(flat[place])
        flat[place] = value + step
        with torch.no_grad():
            above = loss()
        flat[place] = value - step
        with torch.no_grad():
            below = loss()
        flat[place] = value
        slope = float(above - below) / (2 * step)
        assert float(parameter.grad.view(-1)[place]) == pytest.approx(slope, rel=1e-4, abs=1e-6), name


def test_a_head_that_has_decided_still_trains():
    head = make_head()
    with torch.inference_mode():
        head.refine(head.encode(*make_inputs()), ActionChange(1e-3))
    context = head.encode(*make_inputs())
    head.decode(context, head.iterate(context, head.initial_state(2))).sum().backward()


def test_bfloat16_autocast_trains():
    head = make_head().train()
    with torch.autocast("cpu", torch.bfloat16):
        context = head.encode(*make_inputs())
        actions = head.decode(context, head.iterate(context, head.initial_state(2, torch.Generator().manual_seed(0))))
    actions.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_initial_weights_have_the_papers_scale():
    config = HeadConfig(
        hidden_dim=256,
        num_heads=4,
        prelude_layers=(0,),
        core_layers=(0, 0),
        coda_layers=(0,),
        chunk_length=8,
        action_dim=14,
        proprio_dim=14,
    )
    head = make_head(config)
    std = math.sqrt(2 / (5 * 256))
    for name, small in (("qkv_self", 1), ("kv_vision", 1), ("ffn_in", 1), ("o_self", 64), ("o_cross", 64), ("ffn_down", 64)):
        weight = getattr(head.core[0], name).weight
        assert float(weight.detach().std()) == pytest.approx(std / math.sqrt(small), rel=0.05), name
        assert float(weight.detach().abs().max()) <= 3 * std / math.sqrt(small)
    assert float(head.output.weight.detach().std()) == pytest.approx(std / 8, rel=0.1)
    assert float(head.action_queries.detach().std()) == pytest.approx(0.632, rel=0.1)
    assert head.core[0].gate == 0.0


def test_the_initial_state_follows_its_configuration():
    for kind, least, most in (("truncated_normal", 1.5, 3.0), ("normal", 3.05, 6.0), ("zeros", 0.0, 0.0)):
        head = make_head(replace(CONFIG, initial_state=kind))
        with torch.no_grad():
            head.gamma_init.fill_(0.5)
            state = head.initial_state(400, torch.Generator().manual_seed(0)) / (0.5 * head.config.init_std)
        assert least <= float(state.abs().max()) <= most
        if kind != "zeros":
            assert float(state.std()) == pytest.approx(1.0, abs=0.03)
    same = [make_head().initial_state(2, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*same)


# --- scratchpads


def settle(start, batch=2, **keys):
    head = make_head()
    with torch.no_grad():
        context = head.encode(*make_inputs(batch))
        return head, context, make_start(start).refine(head, context, ActionChange(1e-4), **keys)


def test_starts_without_chance_repeat_themselves():
    for start in ({"start": "zeros"}, {"start": "seeded", "seed": 4}):
        assert torch.equal(settle(start)[2].actions, settle(start)[2].actions)
    drawn = [settle({"start": "drawn"}, generator=torch.Generator().manual_seed(seed))[2].actions for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_averaging_gives_the_mean_and_the_spread_of_its_draws():
    head, context, got = settle({"start": "averaged", "draws": 5}, generator=torch.Generator().manual_seed(0))
    states = head.initial_state(10, torch.Generator().manual_seed(0)).unflatten(0, (2, 5))
    for row in range(2):
        own = context.select(torch.tensor([row] * 5))
        runs = head.refine(own, ActionChange(1e-4), states[row])
        torch.testing.assert_close(got.actions[row], runs.actions.mean(0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(got.spread[row], runs.actions.var(0, unbiased=False).mean(), rtol=1e-3, atol=1e-9)
        assert int(got.iterations[row]) == int(runs.iterations.max())
        assert bool(got.halted[row]) == bool(runs.halted.all())
    assert got.spread.shape == (2,) and got.change.shape[1] == int(got.iterations.max())
    assert got.stop_reason.tolist() == [StopReason.CONVERGED] * 2


def test_a_warm_start_takes_the_plan_up_where_it_was_executed():
    head, context, first = settle({"start": "drawn"}, generator=torch.Generator().manual_seed(0))
    fresh = torch.arange(8.0).view(1, 8, 1).expand(2, 8, 32)
    shifted = shift_plan(head, Previous(first.state, 3), fresh)
    assert torch.equal(shifted[:, :5], first.state[:, 3:]) and torch.equal(shifted[:, 5:], fresh[:, 5:])
    assert torch.equal(shift_plan(head, Previous(first.state, 99), fresh), fresh)
    again = make_start({"start": "warm"}).refine(head, context, ActionChange(1e-4), previous=Previous(first.state, 0))
    assert (again.iterations < first.iterations).all()  # it starts where it ended
    assert torch.equal(again.actions, head.refine(context, ActionChange(1e-4), first.state).actions)


def test_a_warm_start_without_a_usable_past_draws():
    cold = settle({"start": "drawn"}, generator=torch.Generator().manual_seed(0))[2]
    broken = Previous(torch.full((2, 8, 32), math.nan), 2)
    for previous in (None, broken):
        got = settle({"start": "warm"}, generator=torch.Generator().manual_seed(0), previous=previous)[2]
        assert torch.equal(got.actions, cold.actions)


def test_working_memory_rows_and_grouped_rows_shift_by_their_steps():
    wide = make_head(replace(CONFIG, scratchpad_rows=10))
    state = torch.arange(10.0).view(1, 10, 1).expand(1, 10, 32)
    shifted = shift_plan(wide, Previous(state, 3), -torch.ones(1, 10, 32))
    assert shifted[0, :, 0].tolist() == [3, 4, 5, 6, 7, -1, -1, -1, 8, 9]
    grouped = make_head(replace(CONFIG, scratchpad_rows=4))  # two steps per row
    shifted = shift_plan(grouped, Previous(state[:, :4], 5), -torch.ones(1, 4, 32))
    assert shifted[0, :, 0].tolist() == [2, 3, -1, -1]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"start": "mean"}, "Known: drawn, seeded, zeros, averaged, warm"),
        ({"start": "averaged", "draws": 1}, "at least 2, got 1"),
        ({"start": "seeded", "sed": 3}, "unknown key 'sed'"),
    ],
)
def test_refused_starts_say_what_exists(settings, words):
    with pytest.raises(StartError) as error:
        make_start(settings)
    assert words in str(error.value)


# --- memory

PEAK = """
import ctypes, gc, sys, torch
sys.path[:0] = {paths!r}
from test_head import make_head, make_inputs, replace, CONFIG
from rdvla_ros.model.halting import ActionChange, FixedDepth
torch.set_num_threads(1)
config = replace(CONFIG, hidden_dim=128)  # one scratchpad is 4 KiB: a thousand kept ones are 4 MiB
head, inputs = make_head(config).pack(), make_inputs(1, config)

def peak_kib(rule):
    gc.collect()
    getattr(ctypes.CDLL(None), 'malloc_trim', int)(0)  # what earlier runs freed must not hide what this one takes
    open('/proc/self/clear_refs', 'w').write('5')  # the peak starts anew
    with torch.no_grad():
        head.refine(head.encode(*inputs), rule, generator=torch.Generator().manual_seed(0))
    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM'))

rules = {{n: (FixedDepth(n), ActionChange(0.0, n, evaluate='every')) for n in (2, 1000)}}
for rule in rules[2] * 3:
    peak_kib(rule)  # what the first run of each kind allocates stays
print(max(-peak_kib(short) + peak_kib(long) for short, long in zip(rules[2], rules[1000])))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from /proc")
def test_the_peak_at_a_thousand_iterations_is_that_at_two():
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    run = subprocess.run([sys.executable, "-c", PEAK.format(paths=paths)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) <= 1024
