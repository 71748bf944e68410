"""Step: one tick of N environments, the schema of all later stages."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Step(NamedTuple):
    """One row per environment, N in all: the observation at time t, then the chosen action.

    The reward arrived *with* the frame; the action was chosen *after* seeing it. Every environment tick is one row,
    including the true last frame, and the reset frame of the next episode is the row after it:

         t:             0      1      2      3(last)   4(next episode)
         image[t]:      x0     x1     x2     x3        x0'
         reward[t]:     0      r1     r2     r3        0
         action[t]:     a0     a1     a2     0         a0'
         is_first[t]:   1      0      0      0         1
    """

    image: NDArray[np.uint8]  # [N, H, W, 3] the frame x_t
    reward: NDArray[np.float32]  # [N] r_t, summed over the action repeat; 0 where is_first
    is_first: NDArray[np.bool_]  # [N] the frame of a reset
    is_last: NDArray[np.bool_]  # [N] the last frame of an episode, for any reason
    is_terminal: NDArray[np.bool_]  # [N] the last frame, and no value lies beyond it
    action: NDArray[np.float32]  # [N, A] in [-1, 1], as executed; zeros where is_last
    vector: NDArray[np.float32] | None = None  # [N, V] beside the frame x_t; None where observations are frames alone

    def fields(self) -> dict[str, NDArray[Any]]:
        """Return the fields that are there, by name."""
        return {name: values for name, values in self._asdict().items() if values is not None}
