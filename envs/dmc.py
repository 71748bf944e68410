"""DMCPixels: a DeepMind Control task as a pixel environment."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from envs.checks import check_arguments, checked_count
from envs.distraction import DistractingCamera
from envs.pixels import Frame, PixelEnv
from envs.rendering import SceneCamera, load_suite
from envs.spaces import ActionScale
from envs.tasks import SUITE_TASKS, base_task, checked_task, is_distracting, task_arguments
from envs.wording import quote_error

_HINGE = 3  # mujoco.mjtJoint.mjJNT_HINGE


class DMCPixels(PixelEnv):
    """A task of dm_control.suite, rendered from one camera.

    Actions in [-1, 1]^A are scaled to the task's bounds, and unchanged for actuators without bounds, as in lqr. The
    time limit truncates; only a task that ends with discount 0 terminates. dm_control is imported by the constructor,
    not with this module.

    Args:
        task: "<domain>_<task>", such as "ball_in_cup_catch", also with arguments, "cartpole_swingup?time_limit=5", or
            before a moving background, "walker_walk-distract" (envs/distraction.py).
        seed: seed of the first reset.
        action_repeat: control steps per step.
        size: side of the square frames, pixels; 0 for vectors alone, which need no GL.
        render: render profile, "standard" or "fast".
        camera_id: number or name of a camera of the model; None is Dreamer's, 2 for quadruped and 0 for all others.
        render_mode: "rgb_array" or None.
        kwargs: further arguments of the suite's function for the task: time_limit in seconds, environment_kwargs.
        vector: whether the suite's own observations come beside the frames, flattened in their order.

    Raises:
        ValueError: an argument that is unknown or out of its range; RenderingError: no GL backend works.
    """

    def __init__(
        self,
        task: str,
        seed: int = 0,
        action_repeat: int = 2,
        size: int = 64,
        render: str = "standard",
        camera_id: int | str | None = None,
        render_mode: str | None = "rgb_array",
        kwargs: Mapping[str, Any] | None = None,
        vector: bool | None = None,
    ) -> None:
        if base_task(checked_task(task)) not in SUITE_TASKS:
            raise ValueError(f"task: got {task!r}, expected a task of the DeepMind Control suite")
        domain, name = SUITE_TASKS[base_task(task)]
        seed = checked_count("seed", seed, 0)
        # lqr builds its model from this number; everything else is seeded at reset.
        self._env = _load(domain, name, task_arguments(task, kwargs), seed % 2**32)
        spec = self._env.action_spec()
        self._scale = ActionScale(Box(spec.minimum, spec.maximum, dtype=np.float64))
        frame_rate = 1.0 / self._env.control_timestep()
        entries = [math.prod(entry.shape) for entry in self._env.observation_spec().values()]
        vector_dim = sum(entries) if vector else None
        super().__init__(task, spec.shape[0], frame_rate, seed, action_repeat, size, render_mode, vector_dim)
        self.render_profile, self.camera, self.vector = render, camera_id, vector
        default_camera = 2 if domain == "quadruped" else 0
        camera = DistractingCamera if is_distracting(task) else SceneCamera
        self._camera = camera(self._env.physics, camera_id if camera_id is not None else default_camera, render)
        if size > 0:
            self._camera.prepare()

    @property
    def physics(self) -> Any:
        """dm_control's physics, for scripts that read or set the simulator's state."""
        return self._env.physics

    def _begin(self, seed: int) -> None:
        self._env.task.random.seed(np.random.SeedSequence(seed).generate_state(8))
        self._readings = self._env.reset().observation
        self._camera.begin_episode(seed)

    def _advance(self, action: NDArray[np.float32]) -> tuple[float, bool, bool]:
        step = self._env.step(self._scale(action))
        self._readings = step.observation
        terminated = step.last() and step.discount == 0.0
        return float(step.reward), terminated, step.last() and not terminated

    def _draw(self, height: int, width: int) -> Frame:
        return self._camera.render(height, width)

    def _measure(self) -> NDArray[Any]:
        return np.concatenate([np.ravel(entry) for entry in self._readings.values()])

    def simulator_state(self) -> dict[str, float]:
        """Return MuJoCo's qpos and qvel by joint, and "contacts", the number of places where bodies touch.

        A hinge without limits has the sine and cosine of its angle.
        """
        model, data = self._env.physics.model, self._env.physics.data
        places: dict[str, NDArray[np.float64]] = {}
        speeds: dict[str, NDArray[np.float64]] = {}
        by_joint = np.split(data.qpos, model.jnt_qposadr[1:]), np.split(data.qvel, model.jnt_dofadr[1:])
        for joint, (place, speed) in enumerate(zip(*by_joint, strict=True)):
            name = model.id2name(joint, "joint") or str(joint)
            if model.jnt_type[joint] == _HINGE and not model.jnt_limited[joint]:
                places |= {f"qpos/sin {name}": np.sin(place), f"qpos/cos {name}": np.cos(place)}
            else:
                places[f"qpos/{name}"] = place
            speeds[f"qvel/{name}"] = speed
        touching = {"contacts": float((data.contact.dist <= 0).sum())}
        return {
            f"{name} {i}" if len(values) > 1 else name: float(value)
            for name, values in {**places, **speeds}.items()
            for i, value in enumerate(values)
        } | touching

    def close(self) -> None:
        """Free the simulator and its GL context; the environment cannot be used after that."""
        self._is_running, self._frame = False, None
        self._env.physics.free()


def _load(domain: str, name: str, arguments: Mapping[str, Any], random: int) -> Any:
    """Load a task of the suite with arguments for the suite's own function."""
    suite = load_suite()
    title = f"dm_control.suite.{domain}.{name}"
    check_arguments(arguments, getattr(suite, domain).SUITE[name], ("random",), title)
    try:
        return suite.load(domain, name, task_kwargs={**arguments, "random": random})
    except (Exception, SystemExit) as error:
        if not arguments:
            raise
        raise ValueError(f"env.kwargs: got {dict(arguments)}, for which {title} raises {quote_error(error)}") from error
