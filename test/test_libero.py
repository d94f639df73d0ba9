"""LIBERO: the way to the simulator and back, the policies' conventions, and what an interrupted evaluation does. With LIBERO's
own environment (make setup-libero) a real task is opened too."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from head_cases import write_published_folder
from head_oracle import random_weights
from published_cases import HEAD, statistics, write_folder

from rdvla_ros.learning.evaluation import evaluate
from rdvla_ros.learning.evaluation.libero import client, main, policies
from rdvla_ros.learning.evaluation.libero.client import EndedError, LiberoError, Seen, Simulator
from rdvla_ros.learning.evaluation.libero.main import LiberoConfig, Runner

# The server with a scene of its own behind it: a hand that goes where it is told, done when it is high enough.
SERVER = f"""
import importlib.util, sys, os
import numpy as np
spec = importlib.util.spec_from_file_location("simulator", {str(client.SERVER)!r})
simulator = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulator)

class Env:
    obj_of_interest = ["bowl", "plate"]
    def reset(self): pass
    def close(self): pass
    def set_init_state(self, state):
        self.at = np.array([0.0, 0.0, 1.0 + state])
        return self.look()
    def look(self):
        picture = np.zeros((4, 4, 3), np.uint8)
        picture[0, 0] = (1, 2, 3)
        return dict(agentview_image=picture, robot0_eye_in_hand_image=picture + 5, robot0_eef_pos=self.at,
                    robot0_eef_quat=np.array([0, 0, 0, 1.0]), robot0_gripper_qpos=np.array([0.04, -0.04]),
                    bowl_pos=np.array([0.1, 0.0, 0.9]))
    def step(self, action):
        print("robosuite says something on standard output")
        self.at = self.at + 0.05 * np.array(action[:3])
        return self.look(), 0.0, bool(self.at[2] > 1.32), {{}}

class Scenes(simulator.Libero):
    def suite(self, name):
        if name != "libero_spatial":
            raise ValueError(f"no suite '{{name}}'")
        return {{"tasks": [{{"name": "lift", "instruction": "lift the bowl"}}] * 2}}, {{}}
    def open(self, task, size):
        if task == 1:
            os._exit(3)
        self.env, self.states = Env(), [0.0, 0.1]
        return {{"states": 2}}, {{}}

writes = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
simulator.serve(Scenes(), sys.stdin.buffer, writes)
"""
CONFIG = LiberoConfig("libero_spatial", "scripted", limit=40)


class Up:
    def begin(self, instruction, seed):
        assert instruction == "lift the bowl"

    def act(self, seen):
        return np.tile([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0], (5, 1))


@pytest.fixture
def simulator():
    made = Simulator([sys.executable, "-c", SERVER])
    yield made
    made.close()


def test_orders_and_pictures_pass_between_the_processes(simulator):
    assert [task["name"] for task in simulator.suite("libero_spatial")] == ["lift", "lift"]
    with pytest.raises(LiberoError, match="no suite 'libero_spacial'"):
        simulator.suite("libero_spacial")
    assert simulator.open(0) == 2
    seen = simulator.reset(1, wait=2)
    assert seen.position.tolist() == [0.0, 0.0, 1.1] and list(seen.objects) == ["bowl"] and not seen.done
    assert seen.images["agentview"][3, 3].tolist() == [1, 2, 3], "turned by half a turn"
    assert seen.images["wrist"][3, 3].tolist() == [6, 7, 8]
    after = simulator.step(np.tile([0, 0, 1.0, 0, 0, 0, -1], (9, 1)))
    assert after.done and after.position[2] == pytest.approx(1.35), "it stops when it is done"
    with pytest.raises(LiberoError, match="LIBERO's process ended with code 3: robosuite says something"):
        simulator.open(1)


def test_a_rollout_ends_with_success_or_at_its_limit_and_goes_on_where_it_stopped(simulator, tmp_path, monkeypatch):
    monkeypatch.setattr(main, "make_policy", lambda config: Up())
    runner = Runner(CONFIG, lambda: simulator)
    film = tmp_path / "film.mp4"
    assert runner.run(0, 0, film) == {"task": 0, "rollout": 0, "success": True, "steps": 10, "name": "lift"}
    assert film.stat().st_size > 500
    short = Runner(LiberoConfig("libero_spatial", "scripted", limit=3), lambda: simulator)
    assert short.run(0, 3)["steps"] == 3 and not short.run(0, 3)["success"]
    ran = []
    monkeypatch.setattr(main, "Simulator", lambda: Simulator([sys.executable, "-c", SERVER]))
    run = Runner.run
    monkeypatch.setattr(Runner, "run", lambda self, task, rollout, film: ran.append(rollout) or run(self, task, rollout))
    for count in (1, 2, 2):
        data = main.evaluate(CONFIG, [(0, i) for i in range(count)], 1, tmp_path / "out")
    assert ran == [0, 1] and data["success"]["count"] == 2 and data["tasks"]["lift"]["wilson95"][0] < 0.5
    with pytest.raises(LiberoError, match="limit 40, this is 41"):
        main.evaluate(LiberoConfig("libero_spatial", "scripted", limit=41), [(0, 0)], 1, tmp_path / "out")


def test_a_simulator_that_ends_is_started_anew_once(monkeypatch, capsys):
    monkeypatch.setattr(main, "make_policy", lambda config: Up())
    started = []

    def simulate():
        started.append(Simulator([sys.executable, "-c", SERVER]))
        return started[-1]

    runner = Runner(CONFIG, simulate)
    assert runner.run(0, 0)["success"]
    started[0]._process.kill()
    again = runner.run(0, 1)
    assert again["success"] and again["restarted"] and len(started) == 2
    assert "Task 0, rollout 1: LIBERO's process ended" in capsys.readouterr().err
    with pytest.raises(LiberoError, match="ended with code 3"):  # a task that always ends it
        runner.run(1, 0)
    assert len(started) == 3
    assert Runner(CONFIG, simulate).run(0, 0)["success"]
    for one in started:
        one.close()


@pytest.mark.parametrize(
    ("said", "words"),
    [('{"arrays": {"wrist": [9, 9, 3]}}\nhalf', "in the middle of a picture with code 0"), ('{"arr', "ended with code 0")],
)
def test_a_process_that_ends_within_its_answer_is_named(said, words):
    simulator = Simulator([sys.executable, "-c", f"print({said!r}, end='', flush=True)"])
    with pytest.raises(EndedError, match=words):
        simulator.suite("libero_spatial")
    simulator.close()


def test_rollouts_of_other_weights_under_the_same_name_are_not_mixed(tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    config = LiberoConfig("libero_spatial", str(folder))
    with pytest.raises(LiberoError, match="found no files"):
        config.described()
    (folder / "model.safetensors").write_bytes(b"1")
    assert main._journal(config.described(), tmp_path / "out") == {}
    (folder / ".cache").mkdir()
    (folder / ".cache" / "download.metadata").write_text("1796097131.0")  # as a download writes it
    assert main._journal(config.described(), tmp_path / "out") == {}
    (folder / "model.safetensors").write_bytes(b"2")
    with pytest.raises(LiberoError, match="holds rollouts with policy_sha256"):
        main._journal(config.described(), tmp_path / "out")


def test_without_the_environment_the_command_that_makes_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv(client.PYTHON, str(tmp_path / "python"))
    with pytest.raises(LiberoError, match="'make setup-libero' makes it"):
        evaluate.main(["--suite", "libero_spatial", "--checkpoint", "random", "--output", str(tmp_path)])


def seen(**changes):
    images = {name: np.full((256, 256, 3), 100, np.uint8) for name in ("agentview", "wrist")}
    values = dict(position=np.zeros(3), quaternion=np.array([0, 0, 0, 1.0]), fingers=np.array([0.04, -0.04]), objects={})
    return Seen(**{"images": images, **values, "done": False, **changes})


def test_a_published_folder_acts_in_libero_s_numbers(tmp_path):
    numbers = statistics(7)
    (entry,) = numbers.values()
    entry["proprio"] = {key: [*values, values[0]] for key, values in entry["proprio"].items()}
    for key, values in {"q01": [-0.5] * 6 + [0.0], "q99": [0.5] * 6 + [1.0], "mask": [True] * 6 + [False]}.items():
        entry["action"][key] = values
    folder, head = write_folder(tmp_path, joints=7), replace(HEAD, action_dim=7, proprio_dim=8)
    write_published_folder(folder, head, *random_weights(head, 1), step="40000", prefix="module.model.")
    (folder / "dataset_statistics.json").write_text(json.dumps(numbers))
    policy = policies.PublishedPolicy(folder, None, execute=3)
    chunks = []
    for seed, level in ((1, 100), (1, 100), (2, 100), (1, 250)):
        policy.begin("Pick up the bowl", seed)
        images = {"agentview": np.full((256, 256, 3), level, np.uint8), "wrist": seen().images["wrist"]}
        chunks.append(policy.act(seen(images=images)))
    assert chunks[0].shape == (3, 7) and set(chunks[0][:, 6]) <= {-1.0, 1.0}
    assert np.array_equal(chunks[0], chunks[1])
    assert not np.array_equal(chunks[0], chunks[2]) and not np.array_equal(chunks[0], chunks[3])
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics()))
    with pytest.raises(
        LiberoError, match=r"expected a LIBERO checkpoint \(8 numbers of state, 7 of action\), its data has \(14, 14\)"
    ):
        policies.PublishedPolicy(folder, None)


def test_libero_s_conventions():
    turned = policies.rotation_vector(np.array([0.0, 0.0, np.sin(0.3), np.cos(0.3)]))
    assert turned == pytest.approx([0.0, 0.0, 0.6])
    assert policies.rotation_vector(np.array([0.0, 0.0, 0.0, 1.0])).tolist() == [0.0, 0.0, 0.0]
    back = policies.rotation_vector(np.array([1.0, 0.0, 0.0, -0.1]) / np.sqrt(1.01))
    assert np.linalg.norm(back) > np.pi, "w is not made positive"
    actions = np.zeros((2, 7))
    actions[:, 6] = (0.9, 0.1)
    assert policies.gripper_command(actions)[:, 6].tolist() == [-1.0, 1.0], "1 opens in the data and closes in robosuite"
    assert policies.libero_state(seen()).tolist() == [0, 0, 0, 0, 0, 0, 0.04, -0.04]


def test_the_real_simulator_opens_a_task(tmp_path):
    try:
        client.libero_python()
    except LiberoError as error:
        pytest.skip(str(error))
    config = LiberoConfig("libero_spatial", "random", limit=2)
    data = main.evaluate(config, [(0, 0)], 1, tmp_path)
    assert data["success"]["of"] == 1 and data["episodes"][0]["steps"] == 2
