"""The head against the textbook oracle: over sizes, layer layouts, rotary forms, dtypes, batches, and along every path."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
from head_cases import SMALL, load_case, one_row, oracle_case, random_inputs, relative_error
from head_oracle import Oracle, OracleConfig

from rdvla_ros.bench.head.main import FULL_SIZE, make_subject
from rdvla_ros.learning.training.recurrence import unroll
from rdvla_ros.model.config import HeadConfig
from rdvla_ros.model.halting import ActionChange, FixedDepth
from rdvla_ros.model.head import RDVLAHead
from rdvla_ros.model.refine import refine
from rdvla_ros.model.runner import EagerRunner, GraphCache, GraphRunner
from rdvla_ros.model.sketch_ratio import Experience


def random_case(seed: int) -> tuple[OracleConfig, int, dict]:
    """(configuration, batch, numbers of context rows)"""
    r = random.Random(seed)
    heads, width = r.choice([1, 2, 3, 4]), 2 * r.randint(1, 8)
    layers = [r.randint(0, 5) for _ in range(6)]
    config = OracleConfig(
        hidden_dim=heads * width,
        num_heads=heads,
        prelude=tuple(layers[: r.choice([0, 1, 2])]),
        core=tuple(layers[2 : 3 + r.randint(0, 2)]),
        coda=tuple(layers[4 : 5 + r.randint(0, 1)]),
        chunk_length=r.randint(1, 10),
        action_dim=r.randint(1, 15),
        proprio_dim=r.randint(1, 15),
        published_rotary=r.random() < 0.5,
    )
    return config, r.randint(1, 4), {"vision": r.randint(1, 30), "latents": r.randint(1, 9)}


@pytest.mark.parametrize("seed", range(24))
def test_head_computes_the_formulas(tmp_path, seed):
    config, batch, sizes = random_case(seed)
    weights, projector, inputs, oracle = oracle_case(config, batch, seed, **sizes)
    head = load_case(tmp_path, config, weights, projector)
    *states, start = inputs
    iterations = 1 + seed % 12
    chunk, state = oracle.fixed(start, iterations)
    with torch.no_grad():
        lean = head.encode(*states)
    for context in (lean, head.encode(*states), head.project_coda(lean)):
        got = head.refine(context, FixedDepth(iterations), start)
        assert relative_error(got.actions, chunk) < 1e-4
        assert relative_error(got.state, state) < 1e-4
        assert got.iterations.tolist() == [iterations] * batch and got.halted.all()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_unshared_iterations_each_use_their_own_layers(tmp_path, depth):
    shared, *others = (oracle_case(SMALL, 2, seed)[0] for seed in (0, 70, 71, 72))
    three = [shared | {k: v for k, v in other.items() if k.startswith("recurrent.")} for other in others]
    _, projector, (task, latent, proprio, start), _ = oracle_case(SMALL, 2, 0)
    oracles = [Oracle(weights, projector, SMALL, task, latent, proprio) for weights in three]
    state = start
    for k in range(depth):
        state = oracles[min(k, 2)].iterate(state, oracles[0].prelude())
    heads = [load_case(tmp_path / str(n), SMALL, weights, projector) for n, weights in enumerate(three)]
    head = RDVLAHead(replace(heads[0].config, unshared_iterations=3)).eval()
    assert RDVLAHead(HeadConfig.from_dict(head.config.to_dict())).state_dict().keys() == head.state_dict().keys()
    for name, tensor in head.state_dict().items():
        part, place, *rest = name.split(".") if name.startswith("core.") else (name, 0)
        source = heads[int(place) // 2].state_dict()[".".join([part, str(int(place) % 2), *rest]) if rest else name]
        tensor.copy_(source)
    with torch.no_grad():
        got = head.refine(head.encode(task, latent, proprio), FixedDepth(depth), start)
        assert relative_error(got.state, state) < 1e-4
        assert relative_error(got.actions, oracles[0].decode(state)) < 1e-4
    trained = unroll(head, head.encode(task, latent, proprio), start, depth, 2)
    assert relative_error(trained[-1].detach(), state) < 1e-4
    trained[-1].sum().backward()
    used = {min(k, 2) for k in range(max(0, depth - 2), depth)}
    assert {int(n.split(".")[1]) // 2 for n, p in head.named_parameters() if n.startswith("core.") and p.grad is not None} == used


@pytest.mark.parametrize("published", [True, False])
def test_twelve_iterations_at_the_published_layout(tmp_path, published):
    config = OracleConfig(
        hidden_dim=128,
        num_heads=8,
        prelude=(11,),
        core=(23, 23),
        coda=(23,),
        chunk_length=8,
        action_dim=14,
        proprio_dim=14,
        published_rotary=published,
    )
    weights, projector, (*states, start), oracle = oracle_case(config, 2, 7, vision=64, latents=16)
    head = load_case(tmp_path, config, weights, projector)
    with torch.no_grad():
        got = head.refine(head.encode(*states), FixedDepth(12), start)
    assert relative_error(got.actions, oracle.fixed(start, 12)[0]) < 1e-4


def test_the_two_rotary_forms_differ(tmp_path):
    weights, projector, (*states, start), _ = oracle_case(SMALL, 1, 0)
    published = load_case(tmp_path, SMALL, weights, projector)
    config = OracleConfig(**{**vars(SMALL), "published_rotary": False})
    standard = load_case(tmp_path, config, weights, projector)
    results = [head.refine(head.encode(*states), FixedDepth(3), start).actions for head in (published, standard)]
    assert relative_error(*results) > 1e-2


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("packed", [False, True])
def test_every_dtype_stays_near_the_oracle_in_float64(tmp_path, dtype, tolerance, packed):
    weights, projector, inputs, _ = oracle_case(SMALL, 2, 3, converging=True)
    head = load_case(tmp_path, SMALL, weights, projector)
    head = head.to(dtype)
    head = head.pack() if packed else head
    wide = [{k: v.double() for k, v in d.items()} for d in (weights, projector)]
    # What the narrow head sees is rounded; the oracle gets the same rounded numbers.
    task, latent, proprio, start = (
        {i: t.to(dtype) for i, t in inputs[0].items()},
        {i: t.to(dtype) for i, t in inputs[1].items()},
        inputs[2].to(dtype),
        inputs[3].to(dtype),
    )
    oracle = Oracle(
        *wide, SMALL, {i: t.double() for i, t in task.items()}, {i: t.double() for i, t in latent.items()}, proprio.double()
    )
    with torch.no_grad():
        got = head.refine(head.encode(task, latent, proprio), FixedDepth(12), start)
    assert got.actions.dtype == dtype
    assert relative_error(got.actions, oracle.fixed(start.double(), 12)[0]) < tolerance


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("evaluate", ["needed", "every"])
def test_stops_at_the_published_iteration_counts(tmp_path, seed, evaluate):
    weights, projector, inputs, oracle = oracle_case(SMALL, 1, 50 + seed, converging=True)
    head = load_case(tmp_path, SMALL, weights, projector)
    *states, start = inputs
    counts = []
    for threshold in (1e-1, 3e-2, 1e-2, 1e-3, 5e-4, 1e-4, 1e-5, 1e-7):
        chunk, count = oracle.published_adaptive(start, threshold)
        with torch.no_grad():
            # So small a head's chunk changes erratically (fivefold from one iteration to the next): a wide margin.
            got = head.refine(head.encode(*states), ActionChange(threshold, evaluate=evaluate, margin=16.0), start)
        assert got.iterations.tolist() == [count]
        assert relative_error(got.actions, chunk) < 1e-4
        counts.append(count)
    assert len(set(counts)) >= 4  # the thresholds tell stops apart


@pytest.mark.parametrize("ratio", [None, 1.5, 0.7, Experience()])
def test_skipping_chunks_changes_no_stop_at_a_realistic_width(ratio):
    subject = make_subject(torch.float32, torch.device("cpu"), replace(FULL_SIZE, hidden_dim=192, num_heads=6), rows=(60, 12))
    trace = subject.ours(ActionChange(0.0, 20, evaluate="every")).change[0]
    decoded = []
    decode = subject.head.decode
    subject.head.decode = lambda context, states: decoded.append(len(states)) or decode(context, states)
    for threshold in torch.logspace(-2.4, -6.4, 25).tolist():
        expected = next((k for k in range(2, 21) if trace[k - 1] < threshold), 20)
        assert subject.ours(ActionChange(threshold, 20, ratio=ratio)).iterations.tolist() == [expected]
    every = sum(min(20, next((k for k in range(2, 21) if trace[k - 1] < t), 20)) for t in torch.logspace(-2.4, -6.4, 25).tolist())
    assert sum(decoded) < 0.6 * every


def test_each_row_of_a_batch_equals_its_run_alone(tmp_path):
    weights, projector, inputs, _ = oracle_case(SMALL, 6, 11, converging=True)
    head = load_case(tmp_path, SMALL, weights, projector)
    *states, start = inputs
    with torch.no_grad():
        for rule in (ActionChange(1e-4), ActionChange(1e-4, evaluate="every"), ActionChange(1e-4, patience=2), FixedDepth(5)):
            together = head.refine(head.encode(*states), rule, start)
            for row in range(6):
                *own, own_start = one_row(inputs, row)
                alone = head.refine(head.encode(*own), rule, own_start)
                length = int(alone.iterations)
                assert int(together.iterations[row]) == length
                assert bool(together.halted[row]) == bool(alone.halted[0])
                assert relative_error(together.actions[row], alone.actions[0]) < 1e-5
                assert relative_error(together.state[row], alone.state[0]) < 1e-5
                torch.testing.assert_close(together.change[row, :length], alone.change[0], rtol=1e-3, atol=1e-9, equal_nan=True)
                assert together.change[row, length:].isnan().all()
            if rule != FixedDepth(5):
                assert len(set(together.iterations.tolist())) > 1  # the rows did stop apart


def test_finished_rows_cost_nothing_further(tmp_path):
    weights, projector, inputs, _ = oracle_case(SMALL, 6, 11, converging=True)
    head = load_case(tmp_path, SMALL, weights, projector)
    *states, start = inputs
    rows = []
    head.core_norm.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    with torch.no_grad():
        got = head.refine(head.encode(*states), ActionChange(1e-4), start)
    assert len(set(got.iterations.tolist())) > 1
    # A chunk may be looked at some iterations late; apart from that, finished rows are not iterated.
    assert int(got.iterations.sum()) <= sum(rows) <= int(got.iterations.sum()) + 2


def recorded_eagerly(function, static):
    """What record_cuda_graph returns, without a graph."""
    output = function(static)
    return lambda: output.copy_(function(static)), output


@pytest.mark.parametrize(
    "rule",
    [
        FixedDepth(1),
        FixedDepth(11),
        ActionChange(1e-2),
        ActionChange(1e-4),
        ActionChange(1e-4, 7),
        ActionChange(1e-4, patience=2),
        ActionChange(0.0, 9),
    ],
    ids=str,
)
def test_blocks_on_static_memory_equal_single_iterations(tmp_path, rule):
    """The path that a GPU runs (blocks of iterations, batched decoding, recorded calls), on the CPU."""
    weights, projector, inputs, _ = oracle_case(SMALL, 1, 11, converging=True)
    head = load_case(tmp_path, SMALL, weights, projector)
    graphs = GraphCache(recorded_eagerly)
    with torch.no_grad():
        for seed in range(4):  # the recordings are made once and used for every later decision
            *states, start = random_inputs(SMALL, 1, seed)
            context = head.encode(*states)
            single = refine(head, context, rule, start, runner=EagerRunner(head, context))
            blocks = refine(head, context, rule, start, runner=GraphRunner(head, context, graphs))
            assert blocks.iterations.tolist() == single.iterations.tolist()
            assert blocks.stop_reason.tolist() == single.stop_reason.tolist()
            assert relative_error(blocks.actions, single.actions) < 1e-5
            assert relative_error(blocks.state, single.state) < 1e-5
            seen = ~single.change.isnan()
            torch.testing.assert_close(blocks.change[seen], single.change[seen], rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("rule", [ActionChange(1e-3), ActionChange(1e-4, patience=2), FixedDepth(9)], ids=str)
def test_blocks_of_a_batch_stop_each_row_where_single_iterations_do(tmp_path, rule):
    weights, projector, (*states, start), _ = oracle_case(SMALL, 6, 11, converging=True)
    head = load_case(tmp_path, SMALL, weights, projector)
    with torch.no_grad():
        context = head.encode(*states)
        single, blocks = EagerRunner(head, context), EagerRunner(head, context)
        single.block, blocks.block = 1, 4
        one, four = (refine(head, context, rule, start, runner=runner) for runner in (single, blocks))
    assert four.iterations.tolist() == one.iterations.tolist()
    assert relative_error(four.actions, one.actions) < 1e-5
    assert relative_error(four.state, one.state) < 1e-5


def test_packing_changes_no_numbers(tmp_path):
    weights, projector, inputs, _ = oracle_case(SMALL, 2, 1, converging=True)
    head = load_case(tmp_path, SMALL, weights, projector)
    packed = copy.deepcopy(head).pack()
    *states, start = inputs
    with torch.no_grad():
        for rule in (FixedDepth(12), ActionChange(1e-4)):
            plain, fast = (h.refine(h.encode(*states), rule, start) for h in (head, packed))
            assert plain.iterations.tolist() == fast.iterations.tolist()
            assert relative_error(fast.actions, plain.actions) < 1e-5
