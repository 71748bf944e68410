"""CountingEnv: frames that encode their worker, episode and step, so that tests can check their order."""

import numpy as np
from numpy.typing import NDArray

from envs.checks import checked_count
from envs.pixels import Frame, PixelEnv

_LIMIT = 2**16  # two bytes for each of the three numbers


class CountingEnv(PixelEnv):
    """A test environment: the frame encodes (worker, episode, step) and the reward is the step.

    Episodes count from 0, and again from 0 after a reset with a seed; steps count env frames from 0 at the reset.

    Args:
        seed: seed of gymnasium's own generator, with no other effect.
        action_repeat: env frames per step; the rewards of the repeated frames are summed.
        size: side of the frames, pixels, at least 2, or 0 for vectors alone.
        worker: the number that the frames carry.
        length: env frames per episode.
        action_dim: A.
        vector: whether the same numbers come beside the frames, as (worker, episode, step).
        is_terminating: whether episodes terminate; otherwise they are truncated.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        seed: int = 0,
        action_repeat: int = 1,
        size: int = 64,
        worker: int = 0,
        length: int = 10,
        action_dim: int = 2,
        is_terminating: bool = False,
        vector: bool | None = None,
        render_mode: str | None = "rgb_array",
    ) -> None:
        checked_count("size", size, 2 if size else 0)
        action_dim, vector_dim = checked_count("action_dim", action_dim, 1), 3 if vector else None
        super().__init__("counting", action_dim, 10.0, seed, action_repeat, size, render_mode, vector_dim)
        self.vector = vector
        self.length = checked_count("length", length, 1)
        self._worker = checked_count("worker", worker, 0)
        for name, value in (("length", length), ("worker", worker)):
            if value >= _LIMIT:
                raise ValueError(f"{name}: got {value}, expected less than {_LIMIT}")
        self._is_terminating = is_terminating
        self._step = 0

    def _begin(self, seed: int) -> None:
        self._step = 0

    def _advance(self, action: NDArray[np.float32]) -> tuple[float, bool, bool]:
        self._step += 1
        is_over = self._step >= self.length
        return float(self._step), is_over and self._is_terminating, is_over and not self._is_terminating

    def _draw(self, height: int, width: int) -> Frame:
        numbers = self._measure()  # one colour channel each
        frame = np.empty((height, width, 3), np.uint8)
        frame[: height // 2], frame[height // 2 :] = numbers // 256, numbers % 256
        return frame

    def _measure(self) -> NDArray[np.int64]:
        return np.array([self._worker, self.episode % _LIMIT, self._step])

    def simulator_state(self) -> dict[str, float]:
        """Return the step."""
        return {"step": float(self._step)}


def decode_frame(image: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (worker, episode, step), each int64 [...], of CountingEnv frames uint8 [..., H, W, 3]."""
    image = np.asarray(image)
    if image.ndim < 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: got {image.dtype} {image.shape}, expected uint8 [..., H, W, 3]")
    numbers = image[..., 0, 0, :].astype(np.int64) * 256 + image[..., -1, 0, :]  # [..., 3]
    return numbers[..., 0], numbers[..., 1], numbers[..., 2]
