"""Frame stacks: the newest frames side by side as channels, from which the trunk can see how things move.

Earlier frames of the same episode only: at a reset every place of the stack holds the first frame.
"""

import torch
from torch import Tensor


def stack_chunk(frames: Tensor, is_first: Tensor, count: int, earlier: tuple[Tensor, ...] = ()) -> Tensor:
    """Stack every frame of a chunk on its predecessors, newest first: [B, T, 3, ·, ·], [B, T] -> [B, T, 3 count, ·, ·].

    earlier: the frames before the chunk [B, 3, ·, ·], newest first; without them its first index counts as a reset.
    """
    places = [frames]
    starts = is_first[..., None, None, None]
    for place in range(count - 1):
        before = earlier[place] if earlier else frames[:, 0]
        previous = torch.cat([before.unsqueeze(1), places[-1][:, :-1]], 1)
        places.append(torch.where(starts, frames, previous))
    return frames if count == 1 else torch.cat(places, 2)


def last_frames(frames: Tensor, is_first: Tensor, count: int) -> tuple[Tensor, ...]:
    """Return the `count` - 1 frames [B, 3, ·, ·] that the frame after a chunk [B, T, 3, ·, ·] is stacked on."""
    stack = stack_chunk(frames[:, -count:], is_first[:, -count:], count)[:, -1]
    return stack.split(frames.shape[2], 1)[:-1]


def newest(stacked: Tensor, count: int) -> Tensor:
    """Return the newest `count` frames [N, 3 * count, ·, ·] of stacks [N, 3 * more, ·, ·]."""
    return stacked[:, : 3 * count]


def push(frames: Tensor, is_first: Tensor, earlier: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the places of the next stack: frames [N, 3, ·, ·], then `earlier` ones, as long as before plus one."""
    starts = is_first[:, None, None, None]
    return (frames, *(torch.where(starts, frames, frame) for frame in earlier))
