"""What may be wrong with the pictures a policy sees in an evaluation: noise, frames that did not come, a camera knocked aside,
something in front of one."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from rdvla_ros.robot import Camera
from rdvla_ros.sim.scene import AlohaSim
from rdvla_ros.types import RdvlaError, nearest_names

COVERED_WITHIN_S, GREY = 1.5, 90
SHIFTED_CAMERA = "top"  # the wrist cameras are bolted to the arms; the one on its stand is what people run into


class ConditionError(RdvlaError):
    """Conditions of an evaluation that make no sense."""


@dataclass(frozen=True)
class Conditions:
    """noise: standard deviation of each pixel [0..255]; dropped: share of frames that did not come, so that the one before (an
    action step older) is seen; shift_m, turn_deg: how far the top camera stands from its place, each way drawn per episode;
    covered: name of a camera with something grey before it, covered_share of its picture, from a time within COVERED_WITHIN_S on
    (both drawn per episode)."""

    noise: float = 0.0
    dropped: float = 0.0
    shift_m: float = 0.0
    turn_deg: float = 0.0
    covered: str = ""
    covered_share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("noise", "shift_m", "turn_deg"):
            if not 0.0 <= getattr(self, name) < np.inf:
                raise ConditionError(f"{name}: expected a number of at least 0, got {getattr(self, name)!r}.")
        for name in ("dropped", "covered_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConditionError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)!r}.")


class Eyes:
    """The cameras of a simulator under `conditions`; everything random follows from the episode's seed."""

    def __init__(self, sim: AlohaSim, cameras: tuple[Camera, ...], conditions: Conditions):
        if conditions.covered and conditions.covered not in (names := [camera.name for camera in cameras]):
            raise ConditionError(f"covered: no camera '{conditions.covered}'. {nearest_names(conditions.covered, names)}")
        self._sim, self._cameras, self.conditions = sim, cameras, conditions
        self._patch, self._covered_from_s = np.zeros(2), 0.0
        self._earlier: dict[str, np.ndarray] = {}
        self._rng = np.random.default_rng(0)
        camera = sim.model.camera(SHIFTED_CAMERA)
        self._place = camera.pos.copy(), camera.quat.copy(), camera.mode.copy()

    def begin(self, seed: int) -> None:
        """A new episode: the camera stands elsewhere."""
        self.end()
        self._rng, self._earlier = np.random.default_rng((seed, 7)), {}
        cover = np.random.default_rng((seed, 8))
        self._patch, self._covered_from_s = cover.random(2), float(cover.uniform(0.0, COVERED_WITHIN_S))
        aside, axis = self.conditions.shift_m * _direction(self._rng), _direction(self._rng)
        if not (self.conditions.shift_m or self.conditions.turn_deg):
            return
        camera, (position, turn) = self._sim.model.camera(SHIFTED_CAMERA), self._pose()
        tilt = np.zeros(4)
        mujoco.mju_axisAngle2Quat(tilt, axis, np.deg2rad(self.conditions.turn_deg))
        # A camera that MuJoCo keeps on a target would turn back to it, one straight above it by any angle about the view's axis.
        camera.mode[:] = mujoco.mjtCamLight.mjCAMLIGHT_FIXED
        camera.pos[:] = position + aside
        mujoco.mju_mulQuat(camera.quat, turn, tilt)
        mujoco.mj_camlight(self._sim.model, self._sim.data)  # else the first picture would still be taken from the old place

    def _pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) [m] and quaternion (4,) of the camera in the frame of its body, wherever its mode turns it."""
        model, data = self._sim.model, self._sim.data
        mujoco.mj_camlight(model, data)
        index = model.camera(SHIFTED_CAMERA).id
        body = int(model.cam_bodyid[index])
        to_body, quat = data.xmat[body].reshape(3, 3).T, np.zeros(4)
        mujoco.mju_mat2Quat(quat, (to_body @ data.cam_xmat[index].reshape(3, 3)).ravel())
        return to_body @ (data.cam_xpos[index] - data.xpos[body]), quat

    def end(self) -> None:
        """The camera stands in its place again."""
        camera = self._sim.model.camera(SHIFTED_CAMERA)
        camera.pos[:], camera.quat[:], camera.mode[:] = self._place
        mujoco.mj_camlight(self._sim.model, self._sim.data)

    def soon(self) -> None:
        """One action step before an observation: what will be seen of cameras whose next frame will not come."""
        for camera in self._cameras:
            if self._rng.random() < self.conditions.dropped:
                self._earlier[camera.name] = self._render(camera)

    def look(self) -> dict[str, np.ndarray]:
        """camera -> (height, width, 3) uint8 RGB."""
        pictures = {c.name: self._earlier[c.name] if c.name in self._earlier else self._render(c) for c in self._cameras}
        self._earlier = {}
        if self.conditions.covered and self._sim.time_s >= self._covered_from_s:
            pictures[self.conditions.covered] = self._behind_the_cover(pictures[self.conditions.covered])
        if self.conditions.noise:
            pictures = {name: self._noisy(picture) for name, picture in pictures.items()}
        return pictures

    def _render(self, camera: Camera) -> np.ndarray:
        return self._sim.render(camera.name, camera.width, camera.height)

    def _behind_the_cover(self, picture: np.ndarray) -> np.ndarray:
        """A grey rectangle of the picture's proportions over `covered_share` of its area."""
        picture, scale = picture.copy(), self.conditions.covered_share**0.5
        height, width = (round(scale * side) for side in picture.shape[:2])
        top, left = (np.array(picture.shape[:2]) - (height, width)) * self._patch
        picture[int(top) : int(top) + height, int(left) : int(left) + width] = GREY
        return picture

    def _noisy(self, picture: np.ndarray) -> np.ndarray:
        noise = self._rng.normal(0.0, self.conditions.noise, picture.shape)
        return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


def _direction(rng: np.random.Generator) -> np.ndarray:
    """(3,) of length 1, every direction alike."""
    vector = rng.standard_normal(3)
    return vector / np.linalg.norm(vector)
