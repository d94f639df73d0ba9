"""The task of the coloured pads: scenes, the press, the expert, what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdvla_ros.robot import RobotDescription
from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.expert import PERIOD_S, Expert
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.sim.tasks import TASK_NAMES, get_task, named_task
from rdvla_ros.sim.tasks.follow_trail import (
    COLOURS,
    COLUMNS_M,
    PAD_HALF_M,
    PRESSED_M,
    ROWS_M,
    FollowTrail,
    TrailScene,
    pad_body,
    start_pad,
    trail_scene,
)

SEEDS = 3000


@pytest.fixture(scope="module")
def robot(request) -> RobotDescription:
    return RobotDescription.load(request.config.rootpath / "config/aloha_sim.yaml")


@pytest.fixture(scope="module")
def sim() -> AlohaSim:
    return AlohaSim("follow_trail:4")


def push(sim: AlohaSim, pad: int, metres: float) -> None:
    """Hold a pad down by hand."""
    colour = list(COLOURS)[pad]
    sim.data.qpos[sim.model.joint(f"{colour}_press").qposadr[0]] = -metres


def arms_at_pads(sim: AlohaSim) -> set[str]:
    touching = [pair for pair in sim.meter.contacts() if any(name.endswith("_pad") for name in pair)]
    return {arm for arm in ("left", "right") for pair in touching if any(f"vx300s_{arm}/" in name for name in pair)}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), length=st.none() | st.integers(0, 8))
def test_scenes_have_room_for_a_hand_and_a_trail_of_their_length(seed, length):
    scene = trail_scene(seed, length)
    assert scene == scene and (scene.length == length if length is not None else 0 <= scene.length <= 5)
    gaps = np.abs(scene.places[:, None] - scene.places[None]).max(-1) + np.eye(len(COLOURS))
    assert gaps.min() > 2 * PAD_HALF_M  # pads are squares that do not touch
    pad = scene.start
    for _ in range(scene.length):
        assert scene.following[pad] != pad
        pad = scene.following[pad]
    assert pad == scene.end and scene.following[pad] == pad
    assert start_pad(scene.instruction, scene.colours) == scene.start
    again = trail_scene(seed, scene.length)
    np.testing.assert_array_equal(again.places, scene.places)


@pytest.mark.parametrize("length", [0, 3, 5, 8])
def test_no_side_place_or_colour_is_the_answer(length):
    """Chi-squared of where and what the end is, over many seeds; limits that chance passes once in a hundred thousand."""
    scenes = [trail_scene(seed, length) for seed in range(SEEDS)]
    ends = np.array([scene.places[scene.end] for scene in scenes])
    columns = np.abs(ends[:, :1] - np.array(COLUMNS_M)).argmin(1)
    rows = np.abs(ends[:, 1:] - np.array(ROWS_M)).argmin(1)
    colours = np.array([scene.end for scene in scenes])
    nearness = np.array([np.linalg.norm(s.places - s.places[s.start], axis=1).argsort().argsort()[s.end] for s in scenes])
    tests = [(columns, 6, 33.0), (rows, 4, 27.0), (colours, 10, 40.0), (columns > 2, 2, 19.5)]
    if length:
        tests.append((nearness - 1, 9, 38.0))  # the end is no nearer to the start than another pad
    for values, kinds, limit in tests:
        counts, expected = np.bincount(values, minlength=kinds), SEEDS / kinds
        assert ((counts - expected) ** 2 / expected).sum() < limit


def test_a_pad_counts_when_an_arm_pushes_it_down_and_the_first_one_decides(sim, monkeypatch):
    sim.reset(11)
    scene = trail_scene(11, 4)
    other = (scene.end + 1) % len(COLOURS)
    meter = sim.meter
    push(sim, scene.end, 2 * PRESSED_M)
    meter.look()
    assert meter.memory is None  # nothing touches it
    monkeypatch.setattr(type(meter), "_touched", lambda self: {scene.end, other})
    push(sim, scene.end, 0.5 * PRESSED_M)
    meter.look()
    assert meter.memory is None and sim.stage() == 3
    before = sim.snapshot()
    push(sim, scene.end, 2 * PRESSED_M)
    meter.look()
    assert sim.stage() == 4
    push(sim, other, 2 * PRESSED_M)
    meter.look()
    assert sim.stage() == 4  # too late to spoil it
    sim.restore(before)
    assert meter.memory is None
    push(sim, other, 2 * PRESSED_M)
    push(sim, scene.end, 2 * PRESSED_M)
    meter.look()
    assert meter.memory == other and sim.stage() == 0  # both at once: the wrong one counts
    sim.reset(11)
    assert meter.memory is None


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_the_expert_presses_the_end_with_the_hand_of_its_side_and_the_other_hand_stays(sim, robot, seed):
    expert = Expert(sim.task, robot)
    sim.reset(seed)
    scene, memory, stages, pressed = trail_scene(seed, 4), expert.begin(sim), [0], set()
    side, start = scene.sides[scene.end], sim.positions.copy()
    while sim.time_s < 6.0 and not expert.strategy.finished(expert.view(sim)):
        memory, _ = expert.step(sim, memory)
        sim.set_reference(robot.from_policy(memory.reference))
        sim.step(round(PERIOD_S / sim.timestep_s))
        stages.append(sim.stage())
        pressed |= arms_at_pads(sim)
    assert stages[-1] == 4 and stages == sorted(stages)
    assert pressed == {side} and sim.reached
    still = np.arange(7) + (7 if side == "left" else 0)
    assert np.abs(sim.positions - start)[still].max() < 0.03


def test_the_wrong_pad_first_fails_the_episode(robot):
    sim = AlohaSim("follow_trail:3")
    expert = Expert(sim.task, robot)
    sim.reset(2)
    scene = trail_scene(2, 3)
    sim.target = pad_body(scene.colours[scene.start])  # an expert that does not follow the trail
    memory = expert.begin(sim)
    while sim.time_s < 6.0 and sim.meter.memory is None:
        memory, _ = expert.step(sim, memory)
        sim.set_reference(robot.from_policy(memory.reference))
        sim.step(10)
    assert sim.meter.memory == scene.start
    assert sim.stage() == 0 and sim.max_stage < 4


def test_pictures_show_pads_and_marks_in_their_colours(sim):
    sim.reset(3)
    try:
        picture = sim.render("top", 640, 480).astype(float)
    except SimulationError as error:
        pytest.skip(f"no GL library on this machine: {error}")
    scene, seen = trail_scene(3, 4), []
    for pad in range(len(COLOURS)):
        x, y = scene.places[pad]
        row, column = round(240 - 377.6 * (y - 0.6)), round(320 + 377.6 * x)
        middle = picture[row - 2 : row + 3, column - 2 : column + 3].mean((0, 1))
        ring = picture[row - 10 : row - 8, column - 3 : column + 4].mean((0, 1))
        seen.append((scene.following[pad], middle, pad, ring))
    own = np.array([ring for *_, ring in seen])
    distances = np.linalg.norm(own[:, None] - own[None], axis=-1) + 1e9 * np.eye(len(own))
    assert distances.min() > 50  # of 441: no two colours look alike
    for following, middle, *_ in seen:
        assert np.linalg.norm(own - middle, axis=1).argmin() == following


def test_the_length_is_part_of_the_tasks_name():
    assert get_task("follow_trail:5") == FollowTrail(5) != get_task("follow_trail")
    assert named_task("follow_trail", 7) == "follow_trail:7" and named_task("insertion") == "insertion"
    assert all(get_task(name).name == name.partition(":")[0] for name in TASK_NAMES)
    for seed in range(20):
        assert get_task("follow_trail:2").instruction_of(seed).startswith("follow the trail from the ")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("follow_trail:9", "0 to 8.*got 9.*shorter"),
        ("follow_trail:-1", "0 to 8.*got -1"),
        ("follow_trail:long", "follow_trail:<hops>.*got 'long'"),
        ("insertion:3", "'insertion' has no options"),
        ("follow_trial", "Did you mean 'follow_trail'"),
    ],
)
def test_lengths_and_names_that_do_not_exist_are_refused(name, words):
    with pytest.raises(SimulationError, match=words):
        get_task(name)


def test_a_length_for_another_task_is_refused():
    with pytest.raises(SimulationError, match="'transfer_cube' has no options"):
        named_task("transfer_cube", 3)


def test_two_pads_of_one_colour_and_unknown_colours_are_refused():
    scene = trail_scene(0, 2)
    parts = scene.places, scene.following, scene.start, scene.end, scene.length
    with pytest.raises(SimulationError, match="10 different colours, got two pads in red"):
        TrailScene(("red", "red", *scene.colours[2:]), *parts)
    with pytest.raises(SimulationError, match="unknown colour 'organe'.*orange"):
        TrailScene(("organe", *scene.colours[1:]), *parts)
    with pytest.raises(SimulationError, match="no pad on the table is violet"):
        start_pad("follow the trail from the violet pad and press its end", scene.colours)
    with pytest.raises(SimulationError, match="expected 'follow the trail from the <colour> pad"):
        start_pad("pick up the red cube", scene.colours)


def test_the_launch_knows_the_tasks_that_the_simulator_has():
    from rdvla_ros.bringup import processes

    assert processes.TASK_NAMES == TASK_NAMES
    assert processes.instruction_of("follow_trail:2", 5) == trail_scene(5, 2).instruction


def test_a_reset_of_the_robot_takes_a_length_and_keeps_it():
    """What the reset service does with its text; physics not started."""
    from rdvla_ros.sim.realtime import RealTimeRobot
    from rdvla_ros.sim.scene import JOINT_NAMES

    body = RealTimeRobot({"left": JOINT_NAMES[:7], "right": JOINT_NAMES[7:]}, task="insertion", seed=0)
    for text, seed, length in (("follow_trail:2", 3, 2), ("", 4, 2), ("follow_trail", 5, None)):
        body.reset(text, seed)
        assert (body.state().task, body._sim.task.length) == ("follow_trail", length)
        assert body._sim.target == pad_body(list(COLOURS)[trail_scene(seed, length).end])
    with pytest.raises(SimulationError, match="0 to 8"):
        body.reset("follow_trail:9", 0)
    assert body.state().stage_name == "start"


def test_the_demo_takes_a_length_with_a_trail_only(capsys):
    main = pytest.importorskip("rdvla_ros.demo.main").main
    with pytest.raises(SystemExit) as ended:
        main(["--task", "insertion", "--length", "3"])
    assert ended.value.code == 2 and "only for --task follow_trail, got insertion" in capsys.readouterr().err
