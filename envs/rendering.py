"""Rendering of dm_control: the choice of a GL backend, render profiles, and cached cameras."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.wording import quote_error

BACKENDS = ("egl", "osmesa", "glfw")  # headless ones first
PROFILES = ("standard", "fast")

# Renders a tiny model in the same way as the environments.
_PROBE = """
from dm_control.mujoco import Physics
physics = Physics.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='1' rgba='1 1 1 1'/></worldbody></mujoco>")
assert physics.render(64, 64).max() > 0, "the frame is black"
"""


class RenderingError(RuntimeError):
    """No GL backend works on this machine."""


def choose_gl_backend(timeout: float = 60.0) -> str:
    """Return the GL backend of this process and its children, and leave its name in MUJOCO_GL.

    A MUJOCO_GL that is already set is used as it is: the user's choice, or the result of an earlier call in this
    process or a parent. Otherwise each backend renders one frame in a subprocess, because a broken one may crash or
    hang, and the first that succeeds is chosen (about one second).

    Args:
        timeout: seconds that each backend may take.

    Raises:
        RenderingError: none works; one line says why each one failed and what to install.
    """
    chosen = os.environ.get("MUJOCO_GL")
    if chosen:
        return chosen
    failures = []
    for backend in BACKENDS:
        failure = probe(backend, timeout)
        if failure is None:
            os.environ["MUJOCO_GL"] = backend
            return backend
        failures.append(f"{backend}: {failure}")
    raise RenderingError(f"no GL backend works ({'; '.join(failures)}): install libegl1 libgl1-mesa-dri")


def probe(backend: str, timeout: float = 60.0) -> str | None:
    """Render one frame with `backend` in a subprocess; return None, or in one line why that failed."""
    command = [sys.executable, "-c", _PROBE]
    environment = {**os.environ, "MUJOCO_GL": backend}
    try:
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {timeout:g} s"
    if result.returncode == 0:
        return None
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {result.returncode}"


def load_suite() -> ModuleType:
    """Choose a GL backend, then import and return dm_control.suite (slow: a second or two, once per process).

    Raises:
        RenderingError: no backend works, or the one named in MUJOCO_GL cannot be loaded.
    """
    backend = choose_gl_backend()
    try:
        with _quiet():
            from dm_control import suite
    except ModuleNotFoundError:
        raise
    except (ImportError, AttributeError, RuntimeError) as error:  # PyOpenGL's errors for a missing library
        raise RenderingError(
            f"MUJOCO_GL={backend} cannot be loaded ({error}): install libegl1 libgl1-mesa-dri, or unset MUJOCO_GL"
        ) from error
    return suite


def _context_failure(physics: Any) -> str | None:
    """Make the GL context of a physics, so that failures show before a run begins; return the reason, or None.

    The error itself is not kept: it holds a context that would print warnings at the end of the process.
    """
    with _quiet():
        try:
            _ = physics.contexts
        except Exception as error:
            return quote_error(error)
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence GLFW's warnings about a screen and dm_control's about an incomplete context, which repeat the error."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            yield
    finally:
        sys.unraisablehook = hook


class SceneCamera:
    """A camera that renders one dm_control physics at any size, in one render profile.

    `standard` is bit-identical to physics.render(); `fast` omits shadows, reflections and multisampling (about ten
    times as fast in software; shiny floors get darker). One dm_control Camera is kept per frame size, because building
    a scene for every frame costs more than rendering it. A profile applies to the physics' whole life: it is written
    into the model before the GL context is made.

    Args:
        physics: a dm_control Physics that has not been rendered yet.
        camera_id: number or name of one of the model's cameras.
        profile: "standard" or "fast".

    Raises:
        ValueError: an unknown profile, or a camera that the model does not have.
    """

    def __init__(self, physics: Any, camera_id: int | str, profile: str) -> None:
        if profile not in PROFILES:
            raise ValueError(f"render: got {profile!r}, expected one of {', '.join(PROFILES)}")
        names = [physics.model.id2name(i, "camera") for i in range(physics.model.ncam)]
        camera_id = names.index(camera_id) if camera_id in names else camera_id
        if type(camera_id) is not int or not 0 <= camera_id < len(names):
            known = ", ".join(f"{i} {name!r}" if name else str(i) for i, name in enumerate(names))
            raise ValueError(f"camera_id: got {camera_id!r}, expected 0 to {len(names) - 1} or a name ({known})")
        self._physics = physics
        self._camera_id = camera_id
        self._cameras: dict[tuple[int, int], Any] = {}
        self._flags: dict[str, bool] = {}
        if profile == "fast":
            physics.model.vis.quality.shadowsize = 0
            physics.model.vis.quality.offsamples = 0
            self._flags = {"shadow": False, "reflection": False}

    def prepare(self) -> None:
        """Make the GL context, which the first frame would do, so that a RenderingError shows before a run begins."""
        failure = _context_failure(self._physics)
        if failure is not None:
            backend = os.environ.get("MUJOCO_GL", "")
            raise RenderingError(f"MUJOCO_GL={backend} does not work ({failure}): set MUJOCO_GL=egl, or unset it")

    def begin_episode(self, seed: int) -> None:
        """Prepare for an episode; this camera shows all of them alike."""

    def render(self, height: int, width: int) -> NDArray[np.uint8]:
        """Return the scene as a new upright frame [height, width, 3]."""
        # The camera returns a flipped view of a buffer that it will overwrite.
        return self._camera(height, width).render(render_flag_overrides=self._flags).copy()

    def _camera(self, height: int, width: int) -> Any:
        """Return dm_control's Camera of a frame size."""
        camera = self._cameras.get((height, width))
        if camera is None:
            from dm_control.mujoco.engine import Camera

            self._fit_buffer(height, width)
            camera = Camera(self._physics, height, width, self._camera_id)
            self._cameras[height, width] = camera
        return camera

    def _fit_buffer(self, height: int, width: int) -> None:
        """Grow MuJoCo's offscreen buffer to [height, width]: models allow only 640 x 480."""
        import mujoco

        limits = self._physics.model.vis.global_
        if height <= limits.offheight and width <= limits.offwidth:
            return
        limits.offheight, limits.offwidth = max(height, limits.offheight), max(width, limits.offwidth)
        contexts = self._physics.contexts
        with contexts.gl.make_current() as context:
            context.call(mujoco.mjr_resizeOffscreen, limits.offwidth, limits.offheight, contexts.mujoco.ptr)
