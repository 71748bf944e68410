"""Frames: conversion from users' images to the agent's, and to the tensors of its networks."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from envs.images import resize_area, to_rgb

_CHANNELS = (1, 3)


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
