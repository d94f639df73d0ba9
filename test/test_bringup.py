"""The list of processes, and the starter that runs it: what is refused, and that nothing ever stays behind."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from rdvla_ros.bringup import launcher
from rdvla_ros.bringup import processes as bringup
from rdvla_ros.bringup.processes import BringupError, ProcessSpec, processes
from rdvla_ros.nodes.common import transport
from rdvla_ros.nodes.monitor import diagnostics
from rdvla_ros.robot import RobotDescription, shipped

ROOT = Path(__file__).parent.parent


@pytest.fixture
def arguments(tmp_path):
    return {"sim": "true", "checkpoint": str(tmp_path)}


def by_node(specs):
    return {spec.node: spec for spec in specs}


def test_the_simulated_robot_needs_no_arguments_but_a_checkpoint(arguments):
    specs = by_node(processes(arguments))
    assert list(specs) == ["sim_robot", "gate", "monitor", "policy"]  # starting order; stopped backwards
    assert specs["policy"].parameters["robot"].endswith("config/aloha_sim.yaml")
    assert "red cube" in specs["policy"].parameters["instruction"]
    assert not any(spec.parameters.get("use_sim_time") for spec in specs.values())


def test_the_real_robot_begins_in_a_hold_and_gets_no_simulator(arguments):
    specs = by_node(processes({**arguments, "sim": "false", "robot": "config/example_two_arms.yaml"}))
    assert "sim_robot" not in specs
    assert "start_mode" not in specs["gate"].parameters  # the gate's own default: hold until a resume
    assert specs["policy"].parameters["instruction"] == ""


def test_another_speed_makes_every_node_follow_the_simulated_clock(arguments):
    specs = by_node(processes({**arguments, "speed": "2"}))
    assert specs["sim_robot"].parameters["speed"] == 2.0
    assert all(specs[node].parameters["use_sim_time"] for node in ("gate", "monitor", "policy"))


def test_the_dashboard_comes_last_and_its_end_is_nobody_elses(arguments):
    specs = processes({**arguments, "dashboard": "true"})
    assert [spec.node for spec in specs if not spec.needed] == ["dashboard"] and specs[-1].node == "dashboard"
    assert specs[-1].parameters["robot"] == specs[1].parameters["robot"]


def test_the_aggregator_groups_all_that_the_monitor_says_and_is_asked_for(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    with pytest.raises(BringupError, match="ros-\\$ROS_DISTRO-diagnostic-aggregator"):
        processes({**arguments, "aggregator": "true"})
    executable = tmp_path / "lib" / "diagnostic_aggregator" / "aggregator_node"
    executable.parent.mkdir(parents=True)
    executable.touch()
    spec = processes({**arguments, "aggregator": "true"})[-1]
    assert not spec.needed and spec.node == "analyzers" and launcher.command(spec, tmp_path / "a.yaml")[0] == str(executable)
    groups = [group for group in spec.parameters.values() if isinstance(group, dict)]
    prefixes = [prefix for group in groups for prefix in group["startswith"]]
    robot = RobotDescription.load(shipped("config/aloha_sim.yaml"))
    silent, now_s = diagnostics.Heard(), 1.0
    said = [
        diagnostics.policy_status(silent, None, silent, now_s, 2.0),
        diagnostics.gate_status(silent, now_s, 2.0),
        *(diagnostics.controller_status(arm.name, silent, 0, now_s, 2.0) for arm in robot.arms),
        *(diagnostics.camera_status(camera, silent, (0, 0), 10.0, now_s, 2.0) for camera in robot.cameras),
        diagnostics.joints_status("/joint_states", silent, 0, 50.0, now_s, 2.0),
    ]
    for status in said:
        assert sum(status.name.startswith(prefix) for prefix in prefixes) == 1, status.name
    assert all(group["type"] == "diagnostic_aggregator/GenericAnalyzer" for group in groups)


def test_without_the_gate_the_policy_speaks_to_the_controllers(arguments):
    specs = by_node(processes({**arguments, "gate": "false"}))
    assert "gate" not in specs and specs["policy"].parameters["gate"] is False
    assert dict(specs["policy"].remappings) == {
        f"policy/{arm}/joint_trajectory": f"{arm}_arm_controller/joint_trajectory" for arm in ("left", "right")
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sim": "false"}, "sim:=true"),
        ({"speed": "fast"}, "speed"),
        ({"speed": "nan"}, "from 0.01 to 100"),
        ({"sim": "perhaps"}, "true or false"),
        ({"task": "laundry"}, "transfer_cube, insertion"),
        ({"seed": "-1"}, "at least 0"),
        ({"robt": "x.yaml"}, "Did you mean 'robot'"),
        ({"robot": "/nowhere.yaml"}, "docs/robot.md"),
        ({"checkpoint": "/nowhere"}, "expected a folder at /nowhere, found nothing"),
        ({"dashboard": "maybe"}, "true or false"),
    ],
)
def test_a_bad_argument_is_refused_with_what_was_expected(arguments, given, said):
    with pytest.raises(Exception, match=said.replace("(", r"\(")) as refusal:
        processes({**arguments, **given})
    assert isinstance(refusal.value, bringup.RdvlaError)


# -- the starter, with small programs in place of the nodes

OBEYS = "import signal, sys, time\nsignal.signal(signal.SIGINT, lambda *_: sys.exit(0))\nprint('up', flush=True)\ntime.sleep(600)"
STUBBORN = "import signal, time\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)"
CHILD = "import time; time.sleep(600)"
PARENT = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-S', '-c', {CHILD!r}])\nprint('up', flush=True)\n{CHILD}"
FAILS = "print('up', flush=True)\nprint('no camera is there')\nraise SystemExit(3)"


@pytest.fixture
def programs(monkeypatch):
    """ProcessSpec.executable becomes the source of a program."""
    monkeypatch.setattr(launcher, "command", lambda spec, _: [sys.executable, "-S", "-c", spec.executable])
    monkeypatch.setattr(launcher, "GRACE_S", ((signal.SIGINT, 0.5), (signal.SIGTERM, 0.5), (signal.SIGKILL, 5.0)))


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_alive(pid):
    """Zombies that nobody has waited for count as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def is_up(item):
    return "up" in item.log.read_text()


def start(tmp_path, *sources):
    running = launcher.start([ProcessSpec(source, f"node{i}") for i, source in enumerate(sources)], tmp_path)
    for item in running.running:
        wait_until(lambda item=item: is_up(item) or item.process.poll() is not None)
    return running


def test_processes_end_in_reverse_order_and_with_code_0(programs, tmp_path, monkeypatch):
    order = []
    ended = launcher._ended
    monkeypatch.setattr(launcher, "_ended", lambda process, *rest: order.append(process.pid) or ended(process, *rest))
    running = start(tmp_path, OBEYS, OBEYS)
    assert running.stop() == {"node0": 0, "node1": 0}
    assert order == [item.process.pid for item in reversed(running.running)]
    assert running.stop() == {"node0": 0, "node1": 0}  # again does no harm


def test_a_process_that_ignores_signals_is_killed(programs, tmp_path):
    assert start(tmp_path, STUBBORN).stop() == {"node0": -signal.SIGKILL}


def test_what_a_process_started_goes_with_it(programs, tmp_path):
    running = start(tmp_path, PARENT)
    pid = running["node0"].process.pid
    (child,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    running.stop()
    wait_until(lambda: not is_alive(child))


def test_a_process_that_ends_by_itself_is_named_with_the_end_of_its_log(programs, tmp_path):
    with start(tmp_path, OBEYS, FAILS) as running:
        running["node1"].process.wait(timeout=20)
        with pytest.raises(BringupError, match=r"node 'node1'.*code 3[\s\S]*no camera is there"):
            running.check()


def test_the_end_of_a_process_that_is_not_needed_ends_nothing(programs, tmp_path):
    with launcher.start([ProcessSpec(OBEYS, "a"), ProcessSpec(FAILS, "b", needed=False)], tmp_path) as running:
        running["b"].process.wait(timeout=20)
        wait_until(lambda: is_up(running["a"]))
        running.check()
    assert running.exit_codes == {"a": 0, "b": 3}


def test_an_exception_while_starting_leaves_nothing(programs, tmp_path, monkeypatch):
    begun = []
    start_one = launcher._start_one

    def second_fails(*arguments):
        if begun:
            raise OSError("no more processes")
        begun.append(start_one(*arguments))
        return begun[0]

    monkeypatch.setattr(launcher, "_start_one", second_fails)
    with pytest.raises(OSError, match="no more"):
        launcher.start([ProcessSpec(OBEYS, "a"), ProcessSpec(OBEYS, "b")], tmp_path)
    assert begun[0].process.poll() is not None


def test_a_killed_starter_takes_its_processes_along(tmp_path):
    program = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from rdvla_ros.bringup import launcher
        from rdvla_ros.bringup.processes import ProcessSpec
        launcher.command = lambda spec, _: [sys.executable, "-S", "-c", spec.executable]
        running = launcher.start([ProcessSpec({STUBBORN!r}, "a"), ProcessSpec({STUBBORN!r}, "b")], Path({str(tmp_path)!r}))
        print(*(item.process.pid for item in running.running), flush=True)
        time.sleep(600)
    """)
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(is_alive, pids))
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"speed": "fast"}, "speed: expected a number from 0.01 to 100, got 'fast'"),
        ({"speed": "nan"}, "speed: expected a number from 0.01 to 100, got 'nan'"),
        ({"seed": "1.5"}, "seed: expected a whole number, at least 0, got '1.5'"),
        ({"params_file": "/nowhere.yaml"}, "params_file: expected a YAML file at /nowhere.yaml, found nothing"),
    ],
)
def test_arguments_that_do_not_fit_are_named_with_what_was_expected(given, words):
    with pytest.raises(BringupError) as caught:
        processes({"sim": True, **given})
    assert words in str(caught.value)


@pytest.mark.parametrize(("name", "refused"), [("robto", True), ("chekpoint", True), ("robot", False), ("use_rviz", False)])
def test_a_misspelt_launch_argument_is_refused_and_a_foreign_one_is_not(name, refused):
    with pytest.raises(BringupError, match="Did you mean") if refused else contextlib.nullcontext():
        bringup.refuse_misspelt([name])


def test_a_users_parameters_win_over_those_of_the_list(tmp_path):
    """Read back by a real node, in a namespace too."""
    program = textwrap.dedent("""
        import rclpy, sys
        rclpy.init(args=sys.argv)
        node = rclpy.create_node("gate", automatically_declare_parameters_from_overrides=True)
        print(*(node.get_parameter(name).value for name in "ab"), flush=True)
    """)
    ours, users = tmp_path / "gate.yaml", tmp_path / "users.yaml"
    users.write_text("/**/gate: {ros__parameters: {a: 2.0}}\npolicy: {ros__parameters: {b: 5.0}}\n")
    spec = ProcessSpec("gate_node", "gate", {"a": 1.0, "b": 3.0}, namespace="/cell_1", params_file=str(users))
    launcher.write_parameters(ours, spec)
    arguments = launcher.command(spec, ours)[4:]
    out = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
    assert out.stdout.split() == ["2.0", "3.0"], out.stderr


def test_a_domain_is_given_out_once(monkeypatch):
    monkeypatch.setattr(launcher, "DOMAINS", range(100, 102))  # which no other run here reserves: this suite has one too
    with launcher.free_domain() as first, launcher.free_domain() as second:
        assert {first["ROS_DOMAIN_ID"], second["ROS_DOMAIN_ID"]} == {"100", "101"}
        with pytest.raises(BringupError, match="free ROS domain"), launcher.free_domain():
            pass
    with launcher.free_domain() as again:
        assert again == {**again, **transport.variables({**os.environ, transport.RANGE: "LOCALHOST"})}
        assert again[transport.PROFILES[0]] == str(shipped(transport.LOOPBACK))  # heard on this host only


def test_a_node_that_cannot_start_says_so_in_the_log_the_starter_shows(tmp_path):
    """The real gate with a robot description that is not there."""
    with launcher.free_domain() as domain:
        running = launcher.start([ProcessSpec("gate_node", "gate", {"robot": "/nowhere.yaml"})], tmp_path, domain)
        with running:
            running["gate"].process.wait(timeout=60)
            with pytest.raises(BringupError, match=r"'gate'.*code 1[\s\S]*/nowhere.yaml"):
                running.check()


def test_text_that_looks_like_yaml_reaches_a_node_as_text(tmp_path):
    """Instructions are free text: 'yes', '1' and quotes must not turn into booleans and numbers on the way."""
    program = textwrap.dedent("""
        import rclpy, sys
        rclpy.init(args=sys.argv)
        node = rclpy.create_node("n", automatically_declare_parameters_from_overrides=True)
        print(repr([node.get_parameter(name).value for name in "abcd"]), flush=True)
    """)
    texts = ["yes", "1", 'it\'s: "a # cube"', ""]
    spec = ProcessSpec("x", "n", dict(zip("abcd", texts, strict=True)))
    file = tmp_path / "n.yaml"
    launcher.write_parameters(file, spec)
    out = subprocess.run(
        [sys.executable, "-c", program, "--ros-args", "--params-file", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )
    assert out.stdout.strip() == repr(texts), out.stderr


def test_two_runs_of_the_tests_at_once_take_different_domains():
    environment = {name: value for name, value in os.environ.items() if name != "ROS_DOMAIN_ID"}
    code = "import conftest, os, sys; print(os.environ['ROS_DOMAIN_ID'], 'rclpy' in sys.modules, flush=True); input()"
    path = os.pathsep.join([str(Path(__file__).parent), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command, settings = [sys.executable, "-c", code], {"env": environment | {"PYTHONPATH": path}, "text": True}
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **settings))
            for _ in range(2)
        ]
        said = [run.stdout.readline().split() for run in runs]
        for run in runs:
            run.communicate("\n", timeout=30)
    (first, loaded), (second, _) = said
    assert first != second and int(first) in launcher.DOMAINS and int(second) in launcher.DOMAINS and loaded == "False"
