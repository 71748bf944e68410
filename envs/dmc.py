"""DMCPixels: a DeepMind Control task as a gymnasium environment of pixels."""

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from envs.checks import checked_count
from envs.pixels import Frame, PixelEnv
from envs.rendering import SceneCamera, load_suite
from envs.spaces import ActionScale
from envs.tasks import SUITE_TASKS, checked_task


class DMCPixels(PixelEnv):
    """A task of dm_control.suite, seen through one camera.

    Actions in [-1, 1]^A are scaled to the task's own bounds (an actuator without bounds, as in lqr, gets them as they
    are). The time limit truncates; only a task that ends itself with discount 0 terminates. dm_control is imported
    here, not with this module.

    Args:
        task: "<domain>_<task>", such as "ball_in_cup_catch".
        seed: of the first reset.
        action_repeat: control steps per step.
        size: side of the square frames, pixels.
        render: render profile, "standard" or "fast".
        camera_id: which camera of the model; None takes Dreamer's, 2 for quadruped and 0 for all others.
        render_mode: "rgb_array" or None.

    Raises:
        ValueError: an argument out of its range; RenderingError: nothing here can draw.
    """

    def __init__(
        self, task: str, seed: int = 0, action_repeat: int = 2, size: int = 64, render: str = "standard",
        camera_id: int | None = None, render_mode: str | None = "rgb_array",
    ) -> None:  # fmt: skip
        if checked_task(task) not in SUITE_TASKS:
            raise ValueError(f"task: got {task!r}, expected a task of the DeepMind Control suite")
        domain, name = SUITE_TASKS[task]
        seed = checked_count("seed", seed, 0)
        # lqr builds its model from this number; everything else is seeded at reset.
        self._env = load_suite().load(domain, name, task_kwargs={"random": seed % 2**32})
        spec = self._env.action_spec()
        self._scale = ActionScale(Box(spec.minimum, spec.maximum, dtype=np.float64))
        frame_rate = 1.0 / self._env.control_timestep()
        super().__init__(task, spec.shape[0], frame_rate, seed, action_repeat, size, render_mode)
        self.render_profile = render
        default_camera = 2 if domain == "quadruped" else 0
        self._camera = SceneCamera(self._env.physics, camera_id if camera_id is not None else default_camera, render)

    def _begin(self, seed: int) -> None:
        self._env.task.random.seed(np.random.SeedSequence(seed).generate_state(8))
        self._env.reset()

    def _advance(self, action: NDArray[np.float32]) -> tuple[float, bool, bool]:
        step = self._env.step(self._scale(action))
        terminated = step.last() and step.discount == 0.0
        return float(step.reward), terminated, step.last() and not terminated

    def _draw(self, height: int, width: int) -> Frame:
        return self._camera.render(height, width)

    def close(self) -> None:
        """Free the simulator and its GL context; the environment cannot be used after that."""
        self._is_running, self._frame = False, None
        self._env.physics.free()
