"""Random shifts of a chunk's frames: by how much, with what at the edges, and that updates use them."""

import numpy as np
import pytest
import torch

from agent.config.presets import make_config
from agent.learning.frames import shift_chunks
from tests.agent.learning.small_agent import make_agent, make_chunk


def test_a_shifted_frame_is_a_crop_of_the_padded_one() -> None:
    images = torch.randint(256, (200, 3, 8, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shifted = shift_chunks(images, 2, torch.Generator().manual_seed(1))
    assert (shifted.shape, shifted.dtype) == (images.shape, torch.uint8)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    found = set()
    for before, after in zip(padded, shifted.numpy(), strict=True):
        crops = {(i, j): before[:, i : i + 8, j : j + 6] for i in range(5) for j in range(5)}
        found |= {place for place, crop in crops.items() if (crop == after).all()}  # of all frames of the chunk at once
        assert any((crop == after).all() for crop in crops.values())
    assert len(found) == 25


def test_updates_see_shifted_frames() -> None:
    chunk = make_chunk(2, 4)
    without, with_shift, again = (make_agent(replay__shift=pixels).update(chunk) for pixels in (0, 4, 4))
    assert without["recon_loss"] != with_shift["recon_loss"] == again["recon_loss"]


@pytest.mark.parametrize("pixels", [-1, 33])
def test_a_shift_out_of_range_is_named(pixels: int) -> None:
    with pytest.raises(ValueError, match=rf"replay\.shift: got {pixels} with env.size 64, expected 0 to 32 pixels"):
        make_config("debug", "counting", {"replay.shift": pixels})
