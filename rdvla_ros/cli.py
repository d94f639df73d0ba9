"""The command `rdvla`. Each subcommand is imported when it is called, so that training needs no ROS and the demo no dataset."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdvla_ros import __version__
from rdvla_ros.robot import Arm, RobotDescription
from rdvla_ros.types import RdvlaError, nearest_names

ROS_MODULES = (
    "rclpy",
    "ament_index_python",
    "builtin_interfaces",
    "rcl_interfaces",
    "sensor_msgs",
    "std_msgs",
    "trajectory_msgs",
)
ROS_ADVICE = (
    "'make demo' sets everything up in .venv/ and install/ and runs it. With ROS 2 installed: "
    "'source /opt/ros/<distribution>/setup.bash', 'colcon build' and 'source install/setup.bash' first."
)


@dataclass(frozen=True)
class Command:
    """module: has main(argv) -> exit code, and its own --help; empty: `inspect` below."""

    module: str
    description: str


COMMANDS = {
    "demo": Command("rdvla_ros.demo.main", "the simulated robot under the policy, over ROS 2"),
    "dashboard": Command("rdvla_ros.dashboard.main", "the operator's window: what the robot does and why, hold, resume"),
    "demonstrate": Command("rdvla_ros.learning.recording.demonstrate", "record demonstrations of the scripted expert"),
    "train": Command("rdvla_ros.learning.training.train", "train a policy on demonstrations"),
    "estimate": Command("rdvla_ros.learning.estimate", "memory and time of a training step or decision on a given GPU"),
    "correct": Command("rdvla_ros.learning.recording.correct", "let a policy run and record how the expert would go on"),
    "evaluate": Command("rdvla_ros.learning.evaluation.evaluate", "success rate of a checkpoint in the simulator"),
    "study": Command("rdvla_ros.learning.evaluation.study", "what depth, adaptive stopping and trouble do to success"),
    "study symbols": Command("rdvla_ros.learning.evaluation.symbols.main", "the head alone learns to follow trails, on symbols"),
    "study trail": Command("rdvla_ros.learning.evaluation.trail_study", "success over hops and iterations, in closed loop"),
    "study trail-policy": Command(
        "rdvla_ros.learning.evaluation.trail_policy.main", "the checkpoint that follows trails: it decides again while it moves"
    ),
    "study three-tasks": Command(
        "rdvla_ros.learning.evaluation.three_tasks.main", "one checkpoint for three tasks: two heads become one"
    ),
    "study pictures": Command("rdvla_ros.learning.evaluation.pictures.main", "the same from pictures of the top camera"),
    "study uncertainty": Command(
        "rdvla_ros.learning.evaluation.uncertainty.main", "does any signal of a decision predict that its episode fails?"
    ),
    "study help": Command("rdvla_ros.learning.evaluation.uncertainty.helped", "what asking a person is worth"),
    "calibrate": Command("rdvla_ros.learning.evaluation.uncertainty.calibrate", "where the alarm begins, for a checkpoint"),
    "ablate": Command("rdvla_ros.learning.evaluation.ablate", "what each part of the head is worth"),
    "bench head": Command("rdvla_ros.bench.head.main", "speed of the recurrent head against the published way"),
    "bench depth": Command("rdvla_ros.bench.depth_cost", "what iterations cost in training and in a decision"),
    "bench policy": Command("rdvla_ros.bench.policy.main", "a whole decision of the published architecture, stage by stage"),
    "bench control": Command("rdvla_ros.bench.nodes.main", "the nodes: holds, deaths, deadlines, memory, processor"),
    "bench transport": Command("rdvla_ros.bench.nodes.transport", "camera images over UDP and shared memory: loss, latency"),
    "bench controllers": Command(
        "rdvla_ros.bench.controllers.main", "real trajectory controllers: their reference and the limits"
    ),
    "bench dashboard": Command("rdvla_ros.bench.dashboard", "the operator's window: from a click to the hold, share of a core"),
    "bench seams": Command("rdvla_ros.bench.motion.seams", "the ways to join chunks: tracking error, speed kept, jerk"),
    "bench limits": Command("rdvla_ros.bench.motion.limits", "random chunks, seams and holds against the joints' limits"),
    "report": Command("rdvla_ros.runs.report", "one page with plots about a recorded run"),
    "runs-to-dataset": Command("rdvla_ros.learning.recording.runs_to_dataset", "recorded runs and bags as training data"),
    "security": Command("rdvla_ros.bringup.security", "the SROS 2 policy of a robot: who may publish, hear and call what"),
    "import-checkpoint": Command("rdvla_ros.model.import_checkpoint", "a published checkpoint folder as one of this package's"),
    "inspect": Command("", "what a dataset, a checkpoint or a robot description is, and all that is wrong with a dataset"),
}


def parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name.ljust(width)}  {command.description}" for name, command in COMMANDS.items())
    top = argparse.ArgumentParser(
        prog="rdvla",
        description="RD-VLA on bimanual robots.",
        epilog=f"commands:\n{listing}\n\n'rdvla <command> --help' shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"rdvla_ros {__version__}")
    top.add_argument("command", help="one of the commands below")
    top.add_argument("arguments", nargs=argparse.REMAINDER, help="handed on to the command")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command; 2 when there is no such command."""
    words = list(sys.argv[1:] if argv is None else argv)
    top = parser()
    if not words:
        top.print_help()
        return 2
    options = top.parse_args(words)
    name, rest = options.command, options.arguments
    if rest and f"{name} {rest[0]}" in COMMANDS:
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in COMMANDS:
        print(f"rdvla: unknown command '{name}'. {nearest_names(name, COMMANDS)}", file=sys.stderr)
        return 2
    return _run(COMMANDS[name], f"rdvla {name}", rest)


def _run(command: Command, title: str, arguments: list[str]) -> int:
    try:
        entry = importlib.import_module(command.module).main if command.module else inspect
        return int(entry(arguments) or 0)
    except RdvlaError as error:
        print(f"{title}: {error}", file=sys.stderr)
    except ImportError as error:
        print(f"{title}: {_missing(error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\n{title}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output, for example 'head', has gone
        sys.stderr.close()
    return 1


def _missing(error: ImportError) -> str:
    """What to install for a module that is not there."""
    name = (error.name or "").split(".")[0]
    if error.name in ("rdvla_ros.msg", "rdvla_ros.srv"):
        return f"expected the built messages of this package ({error.name}), found none on the Python path. {ROS_ADVICE}"
    if name in ROS_MODULES:
        return f"expected ROS 2, but its Python package '{name}' is not there. {ROS_ADVICE}"
    if name == "rdvla_ros" or not name:
        raise error  # a mistake in this package, not in the surroundings
    return f"expected the Python package '{name}' ({error}). 'make setup' installs it, as do the requirements files with pip."


def inspect(argv: Sequence[str]) -> int:
    """`rdvla inspect`: print what a file or folder is, after all checks that its use would make."""
    options = argparse.ArgumentParser(
        prog="rdvla inspect", description="Check a robot description, a checkpoint or a LeRobotDataset, and print what it says."
    )
    options.add_argument("path", type=Path, help="a robot description (YAML file), a checkpoint folder or a dataset folder")
    options.add_argument(
        "--robot",
        type=Path,
        help="with a checkpoint: also check that it fits this robot description; with a dataset: the robot that it was "
        "recorded with (default: that of 'rdvla train')",
    )
    options.add_argument("--config", type=Path, help="with a dataset: the training configuration that will read it")
    options.add_argument(
        "--contact-sheet", type=Path, help="with a dataset: PNG of its cameras (default: <name>_cameras.png here)"
    )
    given = options.parse_args(argv)
    if (given.path / "meta").is_dir():
        from rdvla_ros.learning.data.inspect import inspect_dataset

        return inspect_dataset(given.path, given.robot, given.config, given.contact_sheet)
    if given.path.is_dir():
        print(_checkpoint_text(given.path, given.robot))
    else:
        print(robot_text(RobotDescription.load(given.path)))
    return 0


def _checkpoint_text(folder: Path, robot_file: Path | None) -> str:
    """A checkpoint folder in words, read with every check of a start, the digest of the weights included."""
    from rdvla_ros.model.checkpoint import load_checkpoint, read_manifest

    robot = RobotDescription.load(robot_file) if robot_file else None
    manifest, checkpoint = read_manifest(folder), load_checkpoint(folder)
    contract, head, weights = checkpoint.contract, checkpoint.model.head.config, manifest["weights"]
    sizes = {part: sum(p.numel() for p in getattr(checkpoint.model, part).parameters()) for part in ("backbone", "head")}
    width = f"width {head.hidden_dim}, {head.num_heads} heads, {head.rows} rows"
    size, digest = f"{weights['bytes'] / 2**20:.1f} MiB {weights['dtype']}", weights["sha256"][:16]
    layers = f"prelude {list(head.prelude_layers)}, core {list(head.core_layers)}, coda {list(head.coda_layers)}"
    lines = [
        f"Checkpoint {folder}: {manifest['format']}, version {manifest['format_version']}",
        f"  weights         {size}, SHA-256 {digest}... as in the manifest",
        f"  backbone        {checkpoint.backbone_name}, {sizes['backbone'] / 1e6:.2f} M parameters",
        f"  head            {sizes['head'] / 1e6:.2f} M parameters, {width}",
        f"  layers          {layers}",
        "",
        "Made for a robot with",
        f"  joints          {', '.join(contract.joint_names)}",
        f"  grippers        {', '.join(contract.gripper_joints) or 'none'} (0 closed .. 1 open)",
        f"  cameras         {', '.join(contract.camera_names)}",
        f"  actions         {contract.representation} joint positions, {contract.chunk_length} steps of {contract.step_s:g} s",
        f"  words           {checkpoint.tokenizer.description}",
        "",
        f"Halting           {_settings(checkpoint.halting)}",
        f"Horizon           {_settings(checkpoint.horizon)}",
    ]
    lines += [f"Training          {key}: {_brief(value)}" for key, value in checkpoint.training.items()]
    return "\n".join(lines + ([_fit_text(folder, robot)] if robot else []))


def _fit_text(folder: Path, robot: RobotDescription) -> str:
    from rdvla_ros.model.policy import Policy

    names = (robot.joint_names, robot.camera_names, robot.representation, robot.gripper_joints)
    Policy.load(folder).require_robot(*names, robot.sensor_sizes)
    return f"\nFits robot '{robot.name}'."


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:120]}... (whole in manifest.json)"


def _settings(rule: Mapping[str, object]) -> str:
    return ", ".join(f"{key} {value}" for key, value in rule.items())


def robot_text(robot: RobotDescription) -> str:
    """A robot description in readable columns."""
    counts = f"{len(robot.arms)} arms, {len(robot.joints)} joints, {len(robot.cameras)} cameras"
    lines = [f"Robot '{robot.name}': {counts}, {robot.representation} joint positions as actions"]
    for arm in robot.arms:
        lines += ["", f"Arm '{arm.name}'", f"  trajectories      {arm.trajectory_topic}"]
        lines += [f"  joint states      {arm.joint_states_topic}"]
        if arm.gripper and arm.gripper.joint_states_topic:
            lines += [f"  of the gripper    {arm.gripper.joint_states_topic}"]
        lines += [f"  controller state  {arm.controller_state_topic or '(none)'}", *_joint_table(arm)]
    lines += ["", "Cameras (in the order of the policy)"]
    name_width = max(len(camera.name) for camera in robot.cameras)
    for camera in robot.cameras:
        frame = f", frame_id '{camera.frame_id}'" if camera.frame_id else ""
        size = f"{camera.width} x {camera.height} px"
        lines.append(f"  {camera.name.ljust(name_width)}  {size} {camera.transport}, {camera.topic}{frame}")
    rates, age_ms = robot.rates, robot.rates.max_observation_age_s * 1e3
    lines += ["", f"Rates: cameras {rates.camera_hz:g} Hz, joint states {rates.joint_states_hz:g} Hz"]
    lines += [f"A decision is made from input at most {age_ms:g} ms old"]
    return "\n".join(lines)


def _joint_table(arm: Arm) -> list[str]:
    width = max(len(joint.name) for joint in arm.joints)
    rows = [f"  {'joint [rad or m]'.ljust(max(width, 16))} {'lower':>9} {'upper':>9} {'velocity':>9} {'accel.':>9} {'jerk':>9}"]
    for joint in arm.joints:
        values = (joint.lower, joint.upper, joint.velocity, joint.acceleration, joint.jerk)
        row = f"  {joint.name.ljust(max(width, 16))} " + " ".join(f"{value:9.4g}" for value in values)
        if arm.gripper and joint.name == arm.gripper.joint:
            row += f"   gripper: closed {arm.gripper.closed:g} (policy 0), open {arm.gripper.open:g} (policy 1)"
        rows.append(row)
    return rows


if __name__ == "__main__":
    sys.exit(main())
