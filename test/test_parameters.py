"""Parameters: declared once, checked together, refused with what would have been accepted."""

import math
from dataclasses import dataclass

import pytest
import rclpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rclpy.node import Node
from rclpy.parameter import Parameter

from rdvla_ros.nodes.common.parameters import ParameterError, Schema, declare, parameter


@dataclass(frozen=True)
class Example(Schema):
    low_s: float = parameter(1.0, "lower time", unit="s", low=0.0, high=10.0, change="always")
    high_s: float = parameter(2.0, "upper time", unit="s", low=0.0, change="always")
    count: int = parameter(3, "how many", low=1, change="always")
    names: tuple[str, ...] = parameter((), "names", change="always")
    mode: str = parameter("auto", "mode", choices=("auto", "hold"))
    folder: str = parameter("", "folder", change="unconfigured")

    def problems(self):
        if self.low_s > self.high_s:
            yield f"low_s: expected at most high_s ({self.high_s:g} s), got {self.low_s:g}."


@pytest.fixture()
def make_node():
    context = rclpy.Context()
    rclpy.init(context=context)
    nodes = []

    def make(**overrides):
        node = Node("example", context=context, parameter_overrides=[Parameter(n, value=v) for n, v in overrides.items()])
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


def set_one(node, name, value):
    return node.set_parameters([Parameter(name, value=value)])[0]


def test_defaults_and_overrides_become_the_values(make_node):
    values = declare(make_node(low_s=0.5, names=["a", "b"]), Example)
    assert values == Example(low_s=0.5, names=("a", "b"))


def test_an_integer_may_stand_for_a_number_but_not_the_other_way(make_node):
    values = declare(make_node(low_s=2), Example)
    assert values.low_s == 2.0 and type(values.low_s) is float
    with pytest.raises(ParameterError, match="count: expected an integer of at least 1, got 2.0"):
        declare(make_node(count=2.0), Example)


def test_a_misspelt_override_is_refused_with_the_nearest_name(make_node):
    with pytest.raises(ParameterError, match="Unknown parameter 'low_z'.*Did you mean 'low_s'"):
        declare(make_node(low_z=0.5), Example)


def test_what_rclpy_itself_reads_is_no_unknown_parameter(make_node):
    declare(make_node(use_sim_time=False), Example)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 11.0, 1e308, "1.0", True, [1.0]])
def test_nonsense_is_refused_and_the_old_value_stays(make_node, value):
    node, changes = make_node(), []
    declare(node, Example, on_change=changes.append)
    result = set_one(node, "low_s", value)
    assert not result.successful and "expected a number from 0 to 10 s" in result.reason
    assert node.get_parameter("low_s").value == 1.0 and changes == []


@pytest.mark.parametrize("value", [math.nan, math.inf, 11.0, "x"])
def test_nonsense_at_the_start_is_refused_too(make_node, value):
    with pytest.raises(ParameterError, match="low_s: expected a number from 0 to 10 s"):
        declare(make_node(low_s=value), Example)


def test_values_are_checked_together_and_set_together(make_node):
    node, changes = make_node(), []
    declare(node, Example, on_change=changes.append)
    assert "low_s: expected at most high_s (0.5 s), got 1." in set_one(node, "high_s", 0.5).reason
    both = [Parameter("low_s", value=3.0), Parameter("high_s", value=4.0)]
    assert node.set_parameters_atomically(both).successful
    assert changes == [Example(low_s=3.0, high_s=4.0)]


def test_a_parameter_that_does_not_change_says_when_it_can(make_node):
    node, configured = make_node(), True
    declare(node, Example, is_configured=lambda: configured)
    assert "Restart the node" in set_one(node, "mode", "hold").reason
    assert "unconfigured" in set_one(node, "folder", "/tmp").reason
    configured = False
    assert set_one(node, "folder", "/tmp").successful


def test_a_refused_choice_names_the_choices(make_node):
    with pytest.raises(ParameterError, match="mode: expected one of 'auto', 'hold', got 'atuo'"):
        declare(make_node(mode="atuo"), Example)


def test_a_parameter_cannot_be_deleted(make_node):
    node = make_node()
    declare(node, Example)
    assert not node.set_parameters([Parameter("low_s", Parameter.Type.NOT_SET, None)])[0].successful


def test_an_error_while_applying_a_change_does_not_escape(make_node):
    node, calls = make_node(), []

    def fails(values):
        calls.append(values)
        raise RuntimeError("no")

    declare(node, Example, on_change=fails)
    assert set_one(node, "count", 5).successful and len(calls) == 1


values = st.one_of(
    st.floats(),
    st.integers(-(2**63), 2**63 - 1),
    st.text(max_size=5),
    st.booleans(),
    st.lists(st.text(max_size=3), max_size=3),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["low_s", "high_s", "count", "names", "mode"]), values), min_size=1, max_size=3))
def test_whatever_is_set_the_values_stay_consistent(fuzzed_node, changes):
    node, seen = fuzzed_node
    before = seen[-1]
    result = node.set_parameters_atomically([Parameter(name, value=value) for name, value in changes])
    assert result.successful or (result.reason and seen[-1] is before)
    assert 0.0 <= seen[-1].low_s <= seen[-1].high_s and seen[-1].count >= 1


@pytest.fixture()
def fuzzed_node(make_node):
    node, seen = make_node(), []
    seen.append(declare(node, Example, on_change=seen.append))
    return node, seen


def test_the_descriptor_tells_unit_and_range(make_node):
    node = make_node()
    declare(node, Example)
    descriptor = node.describe_parameter("low_s")
    assert descriptor.description == "lower time" and "from 0 to 10 s" in descriptor.additional_constraints
