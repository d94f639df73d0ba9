"""The simulated robot: gym-aloha's bimanual scenes in MuJoCo, the tasks and their success measure, the scripted expert.

MuJoCo is imported here, once and guarded: with MUJOCO_GL=egl or osmesa it loads the GL library while it is imported, and
fails with a message about something else where the library is missing.
"""

import importlib.util
import os

from rdvla_ros.types import RdvlaError

GL_ADVICE = (
    "Install a headless GL library: 'apt-get install libegl1 libegl-mesa0 libgles2' (MUJOCO_GL=egl), "
    "or 'apt-get install libosmesa6' (MUJOCO_GL=osmesa); without MUJOCO_GL the one that is installed is used."
)


PACKAGES_ADVICE = (
    "'make setup' in the source tree installs it, or 'pip install mujoco' and 'pip install --no-deps -r requirements-sim.txt' "
    "(gym-aloha and what it needs)."
)


class SimulationError(RdvlaError):
    """The simulator cannot be started, or was asked for something that does not exist."""


def _missing(package: str | None) -> SimulationError:
    return SimulationError(f"The simulator needs the package {package}, which is not installed. {PACKAGES_ADVICE}")


try:
    import mujoco  # noqa: F401
except ModuleNotFoundError as error:
    raise _missing(error.name) from error
except Exception as error:  # PyOpenGL raises AttributeError, mujoco RuntimeError, the loader OSError
    raise SimulationError(
        f"Importing mujoco failed ({type(error).__name__}: {error}); MUJOCO_GL is '{os.environ.get('MUJOCO_GL', '')}'. "
        f"Expected the package mujoco and, where MUJOCO_GL is set, the library it names. {GL_ADVICE}"
    ) from error
if importlib.util.find_spec("gym_aloha") is None:  # not imported here: the scene alone is taken from it
    raise _missing("gym_aloha")
