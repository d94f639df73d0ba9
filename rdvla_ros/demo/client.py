"""The demo's end of the wire: the newest message of each topic it watches, and the services it calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.time import Time
from sensor_msgs.msg import Image

from rdvla_ros.bringup.processes import BringupError
from rdvla_ros.msg import Convergence, GateStatus, TaskStage, Uncertainty
from rdvla_ros.nodes.common import names
from rdvla_ros.nodes.common.executor import make_executor
from rdvla_ros.nodes.common.gate_client import GateClient
from rdvla_ros.srv import Hold, ResetTask, Resume, SetInstruction

WHO = "rdvla demo"
SPIN_S = 0.05
SERVICE_S = 20.0  # a loaded machine may need seconds to render after a reset


class DemoClient(Node):
    """Spins only inside `spin` and `call`, so that everything in the demo happens in one thread.

    check: called while waiting; raises when it is no use to wait any longer.
    """

    def __init__(self, context: Any, check: Callable[[], None], namespace: str = ""):
        super().__init__("rdvla_demo", context=context, namespace=namespace)
        self._check = check
        self._executor = make_executor(context)
        self._executor.add_node(self)
        self.stage: TaskStage | None = None
        self.uncertainty: Uncertainty | None = None
        self.on_decision: Callable[[Convergence], None] = lambda message: None
        self.on_picture: Callable[[np.ndarray, float], None] = lambda picture, stamp_s: None
        self.create_subscription(TaskStage, names.SIM_TASK_STAGE, lambda m: setattr(self, "stage", m), 10)
        self.create_subscription(Uncertainty, names.MONITOR_UNCERTAINTY, lambda m: setattr(self, "uncertainty", m), 10)
        self.create_subscription(Convergence, names.POLICY_CONVERGENCE, lambda m: self.on_decision(m), 50)
        self.create_subscription(Image, names.SIM_VIEW, self._picture, qos_profile_sensor_data)
        self._gate = GateClient(self, (Hold, Resume))
        self._asking = self.create_client(GetState, names.POLICY_GET_STATE)
        self._resetting = self.create_client(ResetTask, names.SIM_RESET)
        self._instructing = self.create_client(SetInstruction, names.POLICY_SET_INSTRUCTION)

    def _picture(self, message: Image) -> None:
        rows = np.frombuffer(message.data, dtype=np.uint8).reshape(message.height, message.step)
        picture = rows[:, : message.width * 3].reshape(message.height, message.width, 3)
        self.on_picture(picture, Time.from_msg(message.header.stamp).nanoseconds * 1e-9)

    def spin(self, seconds: float = SPIN_S) -> None:
        """Take what comes within `seconds`."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)
        self._check()

    def wait(self, condition: Callable[[], bool], seconds: float, what: str, waiting: Callable[[], None] = lambda: None) -> None:
        """Spin until the condition holds; `what` says what was waited for, should the time be up."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise BringupError(f"Waited {seconds:.0f} s for {what}")
            self.spin()
            waiting()

    def _call(
        self,
        client: Any,
        request: Any,
        waiting: Callable[[], None] = lambda: None,
        ready_s: float = SERVICE_S,
        answer_s: float = SERVICE_S,
    ) -> Any:
        name = client.srv_name
        self.wait(client.service_is_ready, ready_s, f"the service {name}, which did not appear.", waiting)
        future = client.call_async(request)
        self.wait(future.done, answer_s, f"an answer of the service {name}, none came.", waiting)
        return future.result()

    def policy_is_active(self, waiting: Callable[[], None], ready_s: float) -> bool:
        """It answers only after it has loaded."""
        state = self._call(self._asking, GetState.Request(), waiting, ready_s, answer_s=ready_s).current_state
        return state.id == State.PRIMARY_STATE_ACTIVE

    def hold(self, reason: str, waiting: Callable[[], None], ready_s: float) -> int:
        """Number of the hold in force."""
        return self._call(self._gate.client(Hold), Hold.Request(reason=reason, who=WHO), waiting, ready_s).hold_id

    def resume(self, hold_id: int) -> Resume.Response:
        return self._call(self._gate.client(Resume), Resume.Request(hold_id=hold_id, who=WHO))

    def reset(self, task: str, seed: int) -> int:
        """Number of the simulated robot's episode that began."""
        answer = self._call(self._resetting, ResetTask.Request(task=task, seed=seed))
        if not answer.success:
            raise BringupError(
                f"{self._resetting.srv_name}: expected task '{task}' with seed {seed} to begin, got: {answer.message}"
            )
        return answer.episode

    def instruct(self, text: str) -> None:
        """Tell the policy what to do from its next decision on."""
        answer = self._call(self._instructing, SetInstruction.Request(instruction=text, who=WHO))
        if not answer.accepted:
            raise BringupError(f"{self._instructing.srv_name}: expected '{text}' to be taken, got: {answer.message}")

    @property
    def gate(self) -> GateStatus | None:
        """Its newest status."""
        return self._gate.status

    @property
    def gate_mode(self) -> str:
        return self._gate.mode_name

    @property
    def uncertainty_score(self) -> float:
        return self.uncertainty.window_score if self.uncertainty else float("nan")

    def close(self) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self.destroy_node()
