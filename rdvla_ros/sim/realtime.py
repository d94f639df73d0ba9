"""The simulated robot as a thing that runs by itself: physics in step with the wall clock, cameras in a thread of their own.

MuJoCo lets go of the interpreter lock while it steps and renders, so the two threads and the caller's share two cores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from rdvla_ros.robot import ControllerRule, Sensor
from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.controller import JointTrajectoryController, Points
from rdvla_ros.sim.interpolation import Desired
from rdvla_ros.sim.readings import readings
from rdvla_ros.sim.rendering import Renderer
from rdvla_ros.sim.scene import JOINT_NAMES, AlohaSim
from rdvla_ros.sim.tasks import get_task
from rdvla_ros.types import nearest_names

WAKE_S = 0.004  # wall time between two looks at the clock
LONGEST_CATCH_UP_S = 0.1  # simulated time that is made up after a stall; the rest is left out
CLOCK_TOLERANCE_S = 0.005  # beyond this the stamps are set to the wall clock again
DEFAULT_RULE = ControllerRule(update_rate_hz=500.0)
FIRST_TIME_S = 1.0  # where simulated time begins when it is the ROS time: 0 means "no clock yet"


@dataclass(frozen=True)
class ArmState:
    """One arm at one moment, in the arm's joint order, controller units; each (J,)."""

    positions: np.ndarray
    velocities: np.ndarray
    desired: Desired
    holding: bool
    accepted: int
    rejected: int
    last_rejection: str


@dataclass(frozen=True)
class RobotState:
    """stamp_s: ROS time of the physics step that this is the result of. elapsed_s: simulated time since the reset."""

    stamp_s: float
    arms: Mapping[str, ArmState]
    task: str
    seed: int
    episode: int
    stage: int
    best_stage: int
    stage_name: str
    reached: bool
    elapsed_s: float


class RealTimeRobot:
    """Physics at 500 Hz with one trajectory controller per arm. All methods may be called from any thread.

    arms: arm name -> joint names. speed: simulated seconds per second. rule: of the controllers; they are updated at its rate,
    though not more often than the physics. wall_s: ROS time as the wall clock has it, used for stamps at speed 1; at another
    speed the simulated time is the ROS time.
    """

    def __init__(
        self,
        arms: Mapping[str, Sequence[str]],
        *,
        task: str,
        seed: int,
        speed: float = 1.0,
        rule: ControllerRule = DEFAULT_RULE,
        wall_s: Callable[[], float] = time.time,
        on_problem: Callable[[str], None] = lambda text: None,
    ):
        self._columns = {arm: _columns(names) for arm, names in arms.items()}
        self._speed, self._wall_s, self._on_problem = speed, wall_s, on_problem
        self._lock = threading.Lock()
        self._sim = AlohaSim(task)
        self._sim.reset(seed)
        self._seed, self._episode = seed, 1
        self._time_s = wall_s() if self.in_wall_time else FIRST_TIME_S
        step_s = self._sim.timestep_s
        self._every, self._step = max(1, round(rule.period_s / step_s)), 0  # steps of the physics per update of the controllers
        self._controllers = {
            arm: JointTrajectoryController(
                names, self._sim.reference[self._columns[arm]], rule=rule.rule, update_rate_hz=1.0 / (self._every * step_s)
            )
            for arm, names in arms.items()
        }
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="physics", daemon=True)

    @property
    def in_wall_time(self) -> bool:
        return self._speed == 1.0

    @property
    def time_s(self) -> float:
        """ROS time of the last physics step."""
        return self._time_s

    @property
    def update_rate_hz(self) -> float:
        """Of the controllers."""
        return 1.0 / (self._every * self._sim.timestep_s)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)

    def accept(self, arm: str, points: Points) -> str:
        """Give an arm's controller a trajectory; why it was rejected, empty when it was taken."""
        with self._lock:
            controller = self._controllers[arm]
            return "" if controller.accept(points, self._time_s) else controller.last_rejection

    def reset(self, task: str, seed: int) -> int:
        """Start an episode: objects by the seed, arms at the start pose, controllers holding. Returns the episode's number."""
        if seed < 0:
            raise SimulationError(f"seed: expected at least 0, got {seed}.")
        same = not task or get_task(task) == self._sim.task
        sim = self._sim if same else AlohaSim(task)
        with self._lock:
            sim.reset(seed)
            self._sim, self._seed = sim, seed
            self._episode += 1
            self._restart_controllers()
            return self._episode

    def state(self) -> RobotState:
        with self._lock:
            sim = self._sim
            return RobotState(
                stamp_s=self._time_s,
                arms={arm: self._arm_state(arm) for arm in self._columns},
                task=sim.task.name,
                seed=self._seed,
                episode=self._episode,
                stage=sim.stage(),
                best_stage=sim.max_stage,
                stage_name=sim.task.stages[sim.max_stage],
                reached=sim.reached,
                elapsed_s=sim.time_s,
            )

    def readings(self, sensors: Sequence[Sensor]) -> tuple[float, dict[str, np.ndarray]]:
        """ROS time of the last physics step, and what the sensors read."""
        with self._lock:
            return self._time_s, readings(self._sim, sensors)

    def picture_state(
        self, data: mujoco.MjData | None, model: mujoco.MjModel | None
    ) -> tuple[mujoco.MjModel, mujoco.MjData, float]:
        """Copy the whole state for a renderer: model, data (the given one where it fits the model) and the time of the state."""
        with self._lock:
            if model is not self._sim.model or data is None:
                data = mujoco.MjData(self._sim.model)
            mujoco.mj_copyData(data, self._sim.model, self._sim.data)
            return self._sim.model, data, self._time_s

    def _restart_controllers(self) -> None:
        for arm, controller in self._controllers.items():
            controller.reset(self._sim.reference[self._columns[arm]])

    def _update_controllers(self) -> None:
        reference = self._sim.reference
        for arm, columns in self._columns.items():
            self._controllers[arm].update(self._time_s)
            reference[columns] = self._controllers[arm].command.position
        self._sim.set_reference(reference)

    def _arm_state(self, arm: str) -> ArmState:
        controller, columns = self._controllers[arm], self._columns[arm]
        return ArmState(
            positions=self._sim.positions[columns],
            velocities=self._sim.velocities[columns],
            desired=controller.reference,
            holding=bool(controller.holding(self._time_s)),
            accepted=controller.accepted,
            rejected=controller.rejected,
            last_rejection=controller.last_rejection,
        )

    def _run(self) -> None:
        try:
            self._keep_pace()
        except Exception as error:  # a thread dies silently; the state stays readable but ages, which its stamps show
            self._on_problem(f"The physics stopped: {type(error).__name__}: {error}")

    def _keep_pace(self) -> None:
        last_s = time.monotonic()
        owed_s = 0.0  # simulated time that the wall clock is ahead
        while not self._stopped.wait(WAKE_S):
            now_s = time.monotonic()
            owed_s = min(owed_s + (now_s - last_s) * self._speed, LONGEST_CATCH_UP_S * max(1.0, self._speed))
            last_s = now_s
            steps = int(owed_s / self._sim.timestep_s)
            if steps:
                owed_s -= steps * self._sim.timestep_s
                self._advance(steps, owed_s)

    def _advance(self, steps: int, owed_s: float) -> None:
        with self._lock:
            step_s = self._sim.timestep_s
            if self.in_wall_time:
                end_s = self._wall_s() - owed_s
                if abs(end_s - (self._time_s + steps * step_s)) > CLOCK_TOLERANCE_S:
                    self._time_s = end_s - steps * step_s
            try:
                for _ in range(steps):
                    self._time_s += step_s
                    if self._step % self._every == 0:
                        self._update_controllers()
                    self._step += 1
                    self._sim.step()
            except SimulationError as error:
                problem = f"{error} The scene was set up again."
                self._sim.reset(self._seed)
                self._episode += 1
                self._restart_controllers()
            else:
                return
        self._on_problem(problem)


def _columns(names: Sequence[str]) -> np.ndarray:
    for name in names:
        if name not in JOINT_NAMES:
            raise SimulationError(f"Joint '{name}' does not exist in the simulated robot. {nearest_names(name, JOINT_NAMES)}")
    return np.array([JOINT_NAMES.index(name) for name in names])


@dataclass(frozen=True)
class Picture:
    """image: (height, width, 3) uint8 RGB of the state at stamp_s (ROS time)."""

    camera: str
    image: np.ndarray
    stamp_s: float


@dataclass(frozen=True)
class CameraSetting:
    """every: pictures only at each so-manieth turn of the cameras."""

    name: str
    width: int
    height: int
    every: int = 1


class CameraThread:
    """Renders the cameras of one state, `rate_hz` turns per second of robot time, and hands each picture to `deliver`."""

    def __init__(
        self,
        robot: RealTimeRobot,
        cameras: Sequence[CameraSetting],
        *,
        rate_hz: float,
        deliver: Callable[[Picture], None],
        on_problem: Callable[[str], None],
    ):
        self._robot, self._cameras, self._period_s = robot, tuple(cameras), 1.0 / rate_hz
        self._deliver, self._on_problem = deliver, on_problem
        self._stopped, self._ready = threading.Event(), threading.Event()
        self._failure: SimulationError | None = None
        self._thread = threading.Thread(target=self._run, name="cameras", daemon=True)

    def start(self, timeout_s: float = 30.0) -> None:
        """Returns once the first pictures are made; raises SimulationError where none can be."""
        self._thread.start()
        if not self._ready.wait(timeout_s):
            raise SimulationError(f"The cameras made no picture within {timeout_s:g} s.")
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        try:
            self._render_until_stopped()
        except SimulationError as error:
            self._failure = error
        except Exception as error:
            self._failure = SimulationError(f"The cameras stopped: {type(error).__name__}: {error}")
        if self._failure is not None and self._ready.is_set():
            self._on_problem(str(self._failure))
        self._ready.set()

    def _render_until_stopped(self) -> None:
        """GL contexts belong to a thread: the renderer lives and dies here."""
        renderer, model, data = None, None, None
        due_s, turn = -np.inf, 0
        try:
            while not self._stopped.is_set():
                now_s = self._robot.time_s
                if now_s < due_s < now_s + 2 * self._period_s:  # else the clock was set back
                    self._stopped.wait(WAKE_S)
                    continue
                on_time = abs(now_s - due_s) < self._period_s
                due_s = (due_s if on_time else now_s) + self._period_s
                new_model, data, stamp_s = self._robot.picture_state(data, model)
                if new_model is not model:
                    if renderer is not None:
                        renderer.close()
                    renderer, model = Renderer(new_model), new_model
                for camera in (camera for camera in self._cameras if turn % camera.every == 0):
                    image = renderer.render(data, camera.name, camera.width, camera.height)
                    if self._ready.is_set():
                        self._deliver(Picture(camera.name, image, stamp_s))
                self._ready.set()
                turn += 1
        finally:
            if renderer is not None:
                renderer.close()


def camera_matrix(model: mujoco.MjModel, camera: str, width: int, height: int) -> np.ndarray:
    """(3, 3) pinhole matrix [px] of a camera: MuJoCo gives the vertical opening angle, and its pixels are square."""
    names = [model.camera(i).name for i in range(model.ncam)]
    if camera not in names:
        raise SimulationError(f"Camera '{camera}' does not exist in the simulated robot. {nearest_names(camera, names)}")
    focal = height / 2.0 / np.tan(np.radians(float(model.camera(camera).fovy[0])) / 2.0)
    return np.array([[focal, 0.0, (width - 1) / 2.0], [0.0, focal, (height - 1) / 2.0], [0.0, 0.0, 1.0]])
