"""Off-screen camera pictures: one GL context per process, shadows and reflections off (they double the time on a CPU)."""

from __future__ import annotations

import atexit
import ctypes.util
import os
import threading
from collections.abc import Callable

import mujoco
import numpy as np

from rdvla_ros.sim import GL_ADVICE, SimulationError

MAX_WIDTH, MAX_HEIGHT = 640, 480  # [px] MuJoCo's default off-screen buffer
BACKENDS = {"egl": "EGL", "osmesa": "OSMesa"}  # MUJOCO_GL value -> name of the library


class Renderer:
    """Pictures of one model. GL contexts belong to a thread: `render` must be called where the first call was made."""

    def __init__(self, model: mujoco.MjModel):
        self._model = model
        self._thread = threading.get_ident()
        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        # No multisampling: it takes more than half of the time, and policies see the pictures shrunk.
        model.vis.quality.offsamples = 0
        self._gl = _open_context()
        try:
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except Exception as error:
            raise _no_context(f"{type(error).__name__}: {error}") from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        atexit.register(self.close)  # after the display's own handler was registered, so it runs before it

    def render(self, data: mujoco.MjData, camera: str, width: int, height: int) -> np.ndarray:
        """(height, width, 3) uint8 RGB picture of the named camera."""
        if not (0 < width <= MAX_WIDTH and 0 < height <= MAX_HEIGHT):
            raise SimulationError(f"Picture size: expected at most {MAX_WIDTH} x {MAX_HEIGHT} px, got {width} x {height}.")
        if threading.get_ident() != self._thread:
            raise SimulationError("A picture was asked for in another thread than the first one; GL contexts cannot move.")
        self._gl.make_current()
        self._camera.fixedcamid = self._model.camera(camera).id
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        viewport = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(viewport, self._scene, self._context)
        picture = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(picture, None, viewport, self._context)
        return np.ascontiguousarray(picture[::-1])  # GL counts rows from the bottom

    def close(self) -> None:
        """Give the context back; safe to call twice."""
        atexit.unregister(self.close)
        if self._gl is not None:
            if self._context is not None:
                self._context.free()
            self._gl.free()
            self._gl = self._context = None


def _open_context():
    """A GL context by MUJOCO_GL, or by the first library found. PyOpenGL binds to one library per process: no retry."""
    wanted = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wanted in BACKENDS:
        backend = wanted
    else:  # glfw needs a display, which robots and servers lack: never chosen by itself
        backend = next((name for name, library in BACKENDS.items() if ctypes.util.find_library(library)), None)
    if backend is None:
        raise _no_context("neither library was found")
    try:
        return _context_class(backend)(MAX_WIDTH, MAX_HEIGHT)
    except Exception as error:  # each backend fails with types of its own
        raise _no_context(f"{backend} failed with {type(error).__name__}: {error}") from error


def _context_class(backend: str) -> Callable:
    if backend == "egl":
        from mujoco.egl import GLContext
    else:
        from mujoco.osmesa import GLContext
    return GLContext


def _no_context(reason: str) -> SimulationError:
    found = {name: ctypes.util.find_library(library) or "not found" for name, library in BACKENDS.items()}
    listing = ", ".join(f"{name}: {where}" for name, where in found.items())
    return SimulationError(
        f"Cameras of the simulated robot need an off-screen GL context; tried MUJOCO_GL="
        f"'{os.environ.get('MUJOCO_GL', '')}' among egl and osmesa ({listing}): {reason}. {GL_ADVICE}"
    )
