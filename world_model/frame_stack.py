"""Frame stacks: the newest frames side by side as channels, from which the trunk can see how things move.

Earlier frames of the same episode only: at a reset every place of the stack holds the first frame.
"""

import torch
from torch import Tensor


def stack_chunk(frames: Tensor, is_first: Tensor, count: int) -> Tensor:
    """Stack every frame of a chunk on its predecessors, newest first: [B, T, 3, ·, ·], [B, T] -> [B, T, 3 count, ·, ·].

    The first index counts as a reset.
    """
    places = [frames]
    starts = is_first[:, 1:, None, None, None]
    for _ in range(count - 1):
        earlier = torch.where(starts, frames[:, 1:], places[-1][:, :-1])
        places.append(torch.cat([frames[:, :1], earlier], 1))
    return frames if count == 1 else torch.cat(places, 2)


def push(frames: Tensor, is_first: Tensor, earlier: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the places of the next stack: frames [N, 3, ·, ·], then `earlier` ones, as long as before plus one."""
    starts = is_first[:, None, None, None]
    return (frames, *(torch.where(starts, frames, frame) for frame in earlier))
