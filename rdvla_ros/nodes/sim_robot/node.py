"""The simulated robot behind the topics of a real one. It is kept apart from sim_robot_node.py because importing MuJoCo can
fail where a GL library is missing, and that must be said in one line."""

from __future__ import annotations

import array
import functools
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import WrenchStamped
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import GetParameters
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from rdvla_ros.msg import ControllerState, TaskStage
from rdvla_ros.nodes.common import conversions, names, qos
from rdvla_ros.nodes.common.hooks import NodeHooks
from rdvla_ros.nodes.common.parameters import Schema, declare, parameter
from rdvla_ros.nodes.common.readings import wrench_message
from rdvla_ros.robot import Arm, Camera, RobotDescription
from rdvla_ros.sim import SimulationError
from rdvla_ros.sim.controller import Points
from rdvla_ros.sim.readings import check_sensors
from rdvla_ros.sim.realtime import ArmState, CameraSetting, CameraThread, Picture, RealTimeRobot, RobotState, camera_matrix
from rdvla_ros.sim.rendering import MAX_HEIGHT, MAX_WIDTH
from rdvla_ros.sim.tasks import TASK_NAMES
from rdvla_ros.srv import ResetTask

STAGE_HZ = 10.0
CLOCK_HZ = 100.0  # [wall] of /clock
JPEG_QUALITY = 90


@dataclass(frozen=True)
class SimRobotParameters(Schema):
    robot: str = parameter("", "robot description, a YAML file", unit="path")
    task: str = parameter("transfer_cube", "task at start", choices=TASK_NAMES)
    seed: int = parameter(0, "seed of the scene at start", low=0)
    speed: float = parameter(1.0, "simulated seconds per second; other than 1 publishes /clock", low=0.01, high=100.0)
    camera_hz: float = parameter(0.0, "rate of the cameras; 0: as the robot description says", unit="Hz", low=0.0, high=120.0)
    camera_width: int = parameter(0, "width of the cameras; 0: as the robot description says", unit="px", low=0, high=MAX_WIDTH)
    camera_height: int = parameter(
        0, "height of the cameras; 0: as the robot description says", unit="px", low=0, high=MAX_HEIGHT
    )
    view_camera: str = parameter("", "one more camera of the scene, for recordings: angle, front_close, ...; empty: none")
    view_width: int = parameter(MAX_WIDTH, "width of the recording camera", unit="px", low=16, high=MAX_WIDTH)
    view_height: int = parameter(MAX_HEIGHT, "height of the recording camera", unit="px", low=16, high=MAX_HEIGHT)
    view_hz: float = parameter(10.0, "rate of the recording camera, at most that of the others", unit="Hz", low=0.1, high=120.0)
    silent_camera: str = parameter("", "fault: this camera of the robot description sends nothing", change="always")
    nan_joint: str = parameter("", "fault: this joint's position is sent as NaN", change="always")


class SimRobotNode(NodeHooks, Node):
    def __init__(self, **node_options: Any) -> None:
        super().__init__(names.SIM_ROBOT, **node_options)
        self._values = declare(self, SimRobotParameters, on_change=self._changed)
        robot = RobotDescription.load(self._values.robot).in_namespace(self.get_namespace())
        self._robot = _with_camera_size(robot, self._values)
        self._wall = Clock(clock_type=ClockType.SYSTEM_TIME)
        values, rates = self._values, self._robot.rates
        self._body = RealTimeRobot(
            {arm.name: arm.joint_names for arm in self._robot.arms},
            task=values.task,
            seed=values.seed,
            speed=values.speed,
            rule=self._robot.controller,
            wall_s=lambda: self._wall.now().nanoseconds / conversions.NANOSECONDS,
            on_problem=lambda text: self.get_logger().error(text),
        )
        check_sensors(self._robot.sensors)
        self._advertise()
        camera_hz = values.camera_hz or rates.camera_hz
        settings = [CameraSetting(camera.name, camera.width, camera.height) for camera in self._robot.cameras]
        if values.view_camera:
            every = max(1, round(camera_hz / values.view_hz))
            settings.append(CameraSetting(values.view_camera, values.view_width, values.view_height, every))
        model, _, _ = self._body.picture_state(None, None)
        self._matrices = {s.name: camera_matrix(model, s.name, s.width, s.height) for s in settings}
        self._eyes = CameraThread(
            self._body,
            settings,
            rate_hz=camera_hz,
            deliver=self._publish_picture,
            on_problem=lambda text: self.get_logger().error(text),
        )
        self._last_stamp_s = self._last_reading_s = 0.0
        self._body.start()
        self._eyes.start()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / rates.joint_states_hz / values.speed, self._publish_joints, clock=steady)
        self.create_timer(1.0 / STAGE_HZ / values.speed, self._publish_stage, clock=steady)
        if not self._body.in_wall_time:
            self._clock = self.create_publisher(ClockMessage, names.CLOCK, qos.NEWEST)
            self.create_timer(1.0 / CLOCK_HZ, self._publish_clock, clock=steady)
        self.get_logger().info(
            f"Simulated robot '{self._robot.name}', task {values.task}, seed {values.seed}, speed {values.speed:g}, "
            f"cameras {', '.join(s.name for s in settings)}."
        )

    def _advertise(self) -> None:
        arms = self._robot.arms
        # arms that share a joint state topic share its publisher and its message, as with one joint_state_broadcaster
        self._joints = {
            topic: self.create_publisher(JointState, topic, 10) for topic in {arm.joint_states_topic: None for arm in arms}
        }
        self._states = {
            arm.name: self.create_publisher(ControllerState, arm.controller_state_topic, 10)
            for arm in arms
            if arm.controller_state_topic
        }
        self._wrenches = {s.name: self.create_publisher(WrenchStamped, s.topic, 10) for s in self._robot.sensors}
        for arm in arms:
            self.create_subscription(JointTrajectory, arm.trajectory_topic, functools.partial(self._on_trajectory, arm), 10)
        for node in dict.fromkeys([name for arm in arms for name in (arm.controller, arm.controller_manager)]):
            self.create_service(GetParameters, f"{node}/get_parameters", self._on_get_parameters)
        self._images, self._infos, self._cameras = {}, {}, {camera.name: camera for camera in self._robot.cameras}
        for camera in self._robot.cameras:
            kind = CompressedImage if camera.transport == "compressed" else Image
            self._images[camera.name] = self.create_publisher(kind, camera.topic, qos.IMAGES)
            self._infos[camera.name] = self.create_publisher(CameraInfo, names.camera_info(camera.topic), qos.IMAGES)
        if self._values.view_camera:
            self._view = self.create_publisher(Image, "~/view/image_raw", qos.IMAGES)
        self._stage = self.create_publisher(TaskStage, "~/task_stage", 10)
        self.create_service(ResetTask, "~/reset", self._on_reset)

    def _changed(self, values: SimRobotParameters) -> None:
        self._values = values

    # -- commands

    def _on_trajectory(self, arm: Arm, message: JointTrajectory) -> None:
        """As with a real controller the sender learns nothing; the log and the controller state say what was rejected."""
        reason = self._body.accept(arm.name, _points(message))
        if reason:
            self.get_logger().error(f"{arm.trajectory_topic}: rejected: {conversions.printable(reason)}.")

    def _on_get_parameters(self, request: GetParameters.Request, response: GetParameters.Response) -> GetParameters.Response:
        """What a controller of this rule says of itself; nothing of what it does not have."""
        rule, rate_hz = self._robot.controller.rule, self._body.update_rate_hz
        values: dict[str, ParameterValue] = {"update_rate": ParameterValue(type=2, integer_value=round(rate_hz))}
        names_of_rule = {"humble": "open_loop_control", "jazzy": "interpolate_from_desired_state"}
        yes = ParameterValue(type=1, bool_value=True)
        values[names_of_rule.get(rule, "interpolate_from_desired_state")] = yes
        if rule == "master":
            values["allow_trajectory_replacement"] = yes
        response.values = [values.get(name, ParameterValue()) for name in request.names]
        return response

    def _on_reset(self, request: ResetTask.Request, response: ResetTask.Response) -> ResetTask.Response:
        try:
            response.episode = self._body.reset(request.task, request.seed)
        except SimulationError as error:
            response.success, response.message = False, str(error)
            return response
        state = self._body.state()
        response.success, response.message = True, f"Episode {state.episode}: {state.task}, seed {state.seed}."
        self.get_logger().info(response.message)
        return response

    # -- what is measured

    def _publish_joints(self) -> None:
        state = self._body.state()
        if state.stamp_s == self._last_stamp_s:  # after a stall timers come in a row; the same state is not sent twice
            return
        self._last_stamp_s = state.stamp_s
        stamp = conversions.stamp(state.stamp_s)
        for topic, publisher in self._joints.items():
            arms = [arm for arm in self._robot.arms if arm.joint_states_topic == topic]
            message = JointState(name=[name for arm in arms for name in arm.joint_names])
            message.header.stamp = stamp
            message.position = np.concatenate([state.arms[arm.name].positions for arm in arms]).tolist()
            message.velocity = np.concatenate([state.arms[arm.name].velocities for arm in arms]).tolist()
            if self._values.nan_joint in message.name:
                message.position[message.name.index(self._values.nan_joint)] = float("nan")
            publisher.publish(message)
        for arm in self._robot.arms:
            if arm.name in self._states:
                self._states[arm.name].publish(_controller_state(arm, state.arms[arm.name], stamp))
        self._publish_wrenches()

    def _publish_wrenches(self) -> None:
        """Computed only where somebody listens: a policy that reads forces, the recorder."""
        heard = [s for s in self._robot.sensors if self._wrenches[s.name].get_subscription_count()]
        if heard:
            stamp_s, readings = self._body.readings(heard)
            if stamp_s == self._last_reading_s:  # taken after the joints: the next joints may be of the same step
                return
            self._last_reading_s = stamp_s
            for sensor in heard:
                frame = sensor.frame_id or f"{sensor.arm}_hand"
                self._wrenches[sensor.name].publish(wrench_message(readings[sensor.name], conversions.stamp(stamp_s), frame))

    def _publish_stage(self) -> None:
        self._stage.publish(_task_stage(self._body.state()))

    def _publish_clock(self) -> None:
        self._clock.publish(ClockMessage(clock=conversions.stamp(self._body.time_s)))

    def _publish_picture(self, picture: Picture) -> None:
        """Called from the camera thread; publishing is thread-safe, and it keeps the executor free for commands."""
        stamp = conversions.stamp(picture.stamp_s)
        if picture.camera not in self._cameras or picture.camera == self._values.view_camera:
            self._view.publish(_image(picture.image, stamp, f"{picture.camera}_camera"))
        camera = self._cameras.get(picture.camera)
        if camera is None or camera.name == self._values.silent_camera:
            return
        if camera.transport == "compressed":
            self._images[camera.name].publish(_compressed(picture.image, stamp, camera.frame_id))
        else:
            self._images[camera.name].publish(_image(picture.image, stamp, camera.frame_id))
        self._infos[camera.name].publish(_camera_info(camera, self._matrices[camera.name], stamp))

    def close(self) -> None:
        self._eyes.close()
        self._body.close()


def _with_camera_size(robot: RobotDescription, values: SimRobotParameters) -> RobotDescription:
    """To try a policy, or a network, with other pictures than the file says (whoever reads the file refuses them)."""
    cameras = [
        replace(camera, width=values.camera_width or camera.width, height=values.camera_height or camera.height)
        for camera in robot.cameras
    ]
    return replace(robot, cameras=tuple(cameras))


def _points(message: JointTrajectory) -> Points:
    """The message as plain data; what a controller checks is left to it."""
    points = message.points
    return Points(
        tuple(message.joint_names),
        conversions.seconds(message.header.stamp),
        [conversions.seconds(point.time_from_start) for point in points],
        [point.positions for point in points],
        [point.velocities for point in points],
        [point.accelerations for point in points],
    )


def _controller_state(arm: Arm, state: ArmState, stamp) -> ControllerState:
    desired = state.desired
    message = ControllerState(joint_names=list(arm.joint_names))
    message.header.stamp = stamp
    message.reference = JointTrajectoryPoint(
        positions=desired.position.tolist(),
        velocities=desired.velocity.tolist(),
        accelerations=desired.acceleration.tolist(),
    )
    message.feedback = JointTrajectoryPoint(positions=state.positions.tolist(), velocities=state.velocities.tolist())
    message.error = JointTrajectoryPoint(
        positions=(desired.position - state.positions).tolist(), velocities=(desired.velocity - state.velocities).tolist()
    )
    message.holding, message.accepted, message.rejected = state.holding, state.accepted, state.rejected
    message.last_rejection = conversions.printable(state.last_rejection)
    return message


def _task_stage(state: RobotState) -> TaskStage:
    message = TaskStage(
        task=state.task,
        seed=state.seed,
        episode=state.episode,
        stage=state.stage,
        best_stage=state.best_stage,
        stage_name=state.stage_name,
        reached=state.reached,
        elapsed_s=state.elapsed_s,
    )
    message.header.stamp = conversions.stamp(state.stamp_s)
    return message


def _image(image: np.ndarray, stamp, frame_id: str) -> Image:
    message = Image(height=image.shape[0], width=image.shape[1], encoding="rgb8", is_bigendian=0, step=3 * image.shape[1])
    message.header.stamp, message.header.frame_id = stamp, frame_id
    message.data = array.array("B", image.tobytes())  # anything but an array of bytes is checked element by element
    return message


def _compressed(image: np.ndarray, stamp, frame_id: str) -> CompressedImage:
    message = CompressedImage(format="rgb8; jpeg compressed bgr8")
    message.header.stamp, message.header.frame_id = stamp, frame_id
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    message.data = array.array("B", encoded.tobytes())
    return message


def _camera_info(camera: Camera, matrix: np.ndarray, stamp) -> CameraInfo:
    message = CameraInfo(height=camera.height, width=camera.width, distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.stamp, message.header.frame_id = stamp, camera.frame_id
    message.k = matrix.ravel()
    message.r = np.eye(3).ravel()
    message.p = np.hstack([matrix, np.zeros((3, 1))]).ravel()
    return message
