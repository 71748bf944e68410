"""Frames: conversion from users' images to the agent's, and to the tensors of its networks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from envs.images import resize_area, to_rgb
from envs.pixels import split

_CHANNELS = (1, 3)


def to_observation(
    observation: Any, side: int, vector_dim: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None, bool]:
    """Convert what one environment shows, or a batch, to uint8 [N, side, side, 3] and float32 [N, V] or None.

    Also return whether it was one environment's. With a `vector_dim` V it is a dict of one image, as in `to_images`,
    and of vectors, which are joined in the order of their names, or with side 0 a vector alone; without, it is the
    image. ValueError for others.
    """
    if vector_dim is None:
        images, is_single = to_images(observation, side)
        return images, None, is_single
    if side == 0:
        given = np.asarray(observation)
        if given.ndim not in (1, 2) or given.size == 0:
            came = "a dict" if isinstance(observation, Mapping) else f"{given.dtype} {list(given.shape)}"
            raise ValueError(f"observation: got {came}, expected a vector [{vector_dim}], or a batch of them")
        vectors = to_vectors({"vector": given}, len(np.atleast_2d(given)), vector_dim)
        return *split(vectors), given.ndim == 1
    if not isinstance(observation, Mapping):
        raise ValueError(f"observation: got {type(observation).__name__}, expected a dict of an image and of vectors")
    entries = dict(observation)
    found = [name for name, part in entries.items() if np.asarray(part).dtype == np.uint8 and np.ndim(part) > 2]
    if len(found) != 1:
        raise ValueError(f"observation: got {len(found)} images in a dict of {', '.join(entries)}, expected one")
    images, is_single = to_images(entries.pop(found[0]), side)
    return images, to_vectors(entries, len(images), vector_dim), is_single


def to_images(observation: Any, side: int) -> tuple[NDArray[np.uint8], bool]:
    """Convert one frame or a batch, of any size, to uint8 [N, side, side, 3]; also return whether it was one frame.

    A frame is [H, W, C] or [C, H, W] with C of 1 or 3. Grey is repeated, other sizes are resized by area as in
    `envs.adapter`. ValueError for other shapes or dtypes.
    """
    images = np.asarray(observation)
    is_single = images.ndim == 3
    shape = images.shape if is_single else images.shape[1:]
    is_frame = len(shape) == 3 and (shape[-1] in _CHANNELS or shape[0] in _CHANNELS)
    if images.dtype != np.uint8 or not is_frame or images.size == 0:
        came = f"{images.dtype} {list(images.shape)}"
        raise ValueError(f"observation: got {came}, expected uint8 frames [H, W, 3] or [3, H, W], one or a batch")
    frames = [resize_area(to_rgb(image), side, side) for image in (images[None] if is_single else images)]
    return np.stack(frames), is_single


def to_vectors(entries: Mapping[str, Any], count: int, vector_dim: int) -> NDArray[np.float32]:
    """Join entries of numbers, each [N, ...], or [...] of one environment, in the order of their names: [N, V].

    ValueError unless these are `count` vectors of `vector_dim` finite numbers.
    """
    parts = {name: np.asarray(part) for name, part in sorted(entries.items())}
    expected, came = f"{count} x {vector_dim} finite numbers", []
    for name, part in parts.items():
        if part.dtype.kind not in "fiub" or part.size % count:
            raise ValueError(f"observation: got {part.dtype} {list(part.shape)} in {name!r}, expected {expected}")
        came.append(part.reshape(count, -1))
    vectors = np.concatenate(came, 1).astype(np.float32) if came else np.zeros((count, 0), np.float32)
    if vectors.shape[1] != vector_dim:
        got = f"{vectors.shape[1]} numbers in {', '.join(parts) or 'no vector'}"
        raise ValueError(f"observation: got {got}, expected {vector_dim} of each environment")
    if not np.isfinite(vectors).all():
        raise ValueError(f"observation: got numbers that are not finite in {', '.join(parts)}, expected {expected}")
    return vectors


def to_frames(images: Tensor) -> Tensor:
    """Convert pixels to network inputs, everywhere: uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in [0, 1]."""
    return images.movedim(-1, -3).contiguous().float().div_(255.0)


def shift_chunks(images: Tensor, pixels: int, generator: Generator | None = None) -> Tensor:
    """Shift the frames of every chunk by up to `pixels` down or up and right or left, all frames of a chunk alike.

    images uint8 [B, T, H, W, C] -> the same shape; edge pixels are repeated (DrQ's random shift, arXiv 2004.13649).
    """
    batch, _, height, width, channels = images.shape
    offsets = torch.randint(-pixels, pixels + 1, (2, batch, 1), generator=generator, device=images.device)
    rows = (torch.arange(height, device=images.device) + offsets[0]).clamp(0, height - 1)  # [B, H]
    columns = (torch.arange(width, device=images.device) + offsets[1]).clamp(0, width - 1)  # [B, W]
    places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)  # [B, H * W]
    flat = images.flatten(2, 3)
    return flat.gather(2, places[:, None, :, None].expand(*flat.shape[:3], channels)).view_as(images)
