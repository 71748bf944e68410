"""Checks of shapes and dtypes in the model's public methods, with one-line ValueErrors."""

import torch
from torch import Tensor


def check_chunk(
    observations: Tensor,
    actions: Tensor,
    action_dim: int,
    frame: Tensor,
    is_first: Tensor | None,
    is_continued: bool = False,
    **targets: Tensor | None,
) -> Tensor:
    """Check a chunk: observations [B, T, 3, 64, 64], actions [B, T, A], the others [B, T], is_first bool. ValueError.

    Return the chunk's resets, bool [B, T]; unless `is_continued`, the first index always counts as one. `frame` is one
    of the model's, of its size and the weights' dtype.
    """
    shape = observations.shape[:2]
    if observations.ndim != 5 or observations.shape[2:] != frame.shape or 0 in shape:
        expected = f"[B, T, {', '.join(map(str, frame.shape))}]"
        raise ValueError(f"observations: got shape {tuple(observations.shape)}, expected {expected}")
    if actions.shape != (*shape, action_dim):
        raise ValueError(f"actions: got shape {tuple(actions.shape)}, expected {(*shape, action_dim)}")
    for name, tensor in {"is_first": is_first, **targets}.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name}: got shape {tuple(tensor.shape)}, expected {tuple(shape)}")
    _check_dtype("observations", observations, frame.dtype)
    _check_dtype("actions", actions, frame.dtype)
    if is_first is not None and is_first.dtype != torch.bool:
        raise ValueError(f"is_first: got {is_first.dtype}, expected torch.bool")
    rewards = targets.get("rewards")
    if rewards is not None and rewards.dtype == torch.bool:
        raise ValueError(f"rewards: got {rewards.dtype}, expected numbers")
    starts = torch.zeros(shape, dtype=torch.bool, device=observations.device)
    starts[:, 0] = not is_continued
    return starts if is_first is None else starts | is_first


def check_frames(frames: Tensor, is_first: Tensor, num_rows: int, frame: Tensor) -> None:
    """Check frames [N, 3, 64, 64] and is_first bool [N] for a memory of N rows; ValueError if they do not fit.

    `frame` as in `check_chunk`.
    """
    if frames.shape != (num_rows, *frame.shape):
        raise ValueError(f"frames: got shape {tuple(frames.shape)}, expected {(num_rows, *frame.shape)}")
    if is_first.shape != (num_rows,) or is_first.dtype != torch.bool:
        raise ValueError(f"is_first: got {is_first.dtype} {tuple(is_first.shape)}, expected bool {(num_rows,)}")
    _check_dtype("frames", frames, frame.dtype)


def check_vectors(vectors: Tensor | None, shape: tuple[int, ...], vector_dim: int | None, dtype: torch.dtype) -> None:
    """Check the vectors [*shape, V] of observations, which are None for a model without; ValueError if they differ."""
    expected = None if vector_dim is None else (*shape, vector_dim)
    found = None if vectors is None else tuple(vectors.shape)
    if found != expected:
        got, wanted = ("none" if shape is None else f"shape {shape}" for shape in (found, expected))
        raise ValueError(f"vectors: got {got}, expected {wanted}")
    if vectors is not None:
        _check_dtype("vectors", vectors, dtype)


def _check_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype:
        raise ValueError(f"{name}: got {tensor.dtype}, expected the weights' {dtype}")
