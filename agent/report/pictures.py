"""Pictures of what parts of the model hold: the slots' maps over frames, decoded tokens, prototypes of components."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agent.learning.agent import Agent
from agent.video.dreams import to_pictures
from agent.video.picture import Picture, palette, tile


def attention_picture(frames: Tensor, shares: Tensor, maps: Tensor, prior_maps: Tensor) -> Picture:
    """Draw N frames [N, 3, H, W] in a row; below, who owns each cell (one colour per slot), then each slot's map.

    shares, maps, prior_maps: [N, S, h, w]. Each slot's map stands above the one that its prior expects.
    """
    pictures = to_pictures(frames)
    zoom = pictures.shape[1] // shares.shape[-1]
    colours = palette(shares.shape[1]).astype(float)
    owners = np.einsum("nsij,sc->nijc", shares.cpu().numpy(), colours).repeat(zoom, 1).repeat(zoom, 2)
    rows = [pictures, (0.5 * pictures + 0.5 * owners).round().astype(np.uint8)]
    for slot in range(shares.shape[1]):
        for found in (maps, prior_maps):
            bright = found[:, slot] / found[:, slot].amax((-2, -1), keepdim=True)
            light = bright.cpu().numpy().repeat(zoom, 1).repeat(zoom, 2)[..., None]
            rows.append((pictures * (0.15 + 0.85 * light)).round().astype(np.uint8))
    return tile([picture for row in rows for picture in row], len(pictures), 2)


class Token(NamedTuple):
    """A code of the tokenizer's codebook: its share of all cells, the cell (row, column) where it is most often.

    decoded: what the tokenizer draws there for it; mean: the mean of the real patches that it stood for there.
    """

    number: int
    share: float
    cell: tuple[int, int]
    decoded: Picture
    mean: Picture


def token_shares(tokens: Tensor, count: int, weights: Tensor | None = None) -> NDArray[np.float64]:
    """Return the share of all cells, or of their weights, that each code takes: tokens of any shape -> [codes]."""
    given = torch.ones(tokens.shape, dtype=torch.float64) if weights is None else weights.double().cpu()
    return np.bincount(tokens.flatten().numpy(), given.flatten().numpy(), count) / max(1e-12, float(given.sum()))


@torch.no_grad()
def most_used_tokens(agent: Agent, tokens: Tensor, frames: Tensor, count: int) -> list[Token]:
    """Return the most used codes, then those of moving things: tokens [B, L, 8, 8], frames [B, L, 3, H, W].

    The first half are used most often; the others explain most of what differs from the mean frame.
    """
    perceiver = agent.model.perceiver
    assert perceiver is not None
    codes, grid = len(perceiver.tokenizer.quantizer.codebook), tokens.shape[-1]
    side = frames.shape[-1] // grid
    cells = frames.unflatten(-2, (grid, side)).unflatten(-1, (grid, side)).permute(0, 1, 3, 5, 2, 4, 6)
    differing = (cells - cells.mean((0, 1))).square().mean((-3, -2, -1))  # [B, L, 8, 8]
    shares = token_shares(tokens, codes)
    chosen = list(np.argsort(-shares, kind="stable")[: count // 2])
    by_movement = np.argsort(-token_shares(tokens, codes, differing), kind="stable")
    chosen += [code for code in by_movement if code not in chosen][: count - len(chosen)]
    return [_token(agent, int(code), float(shares[code]), tokens, cells) for code in chosen if shares[code] > 0]


def _token(agent: Agent, code: int, share: float, tokens: Tensor, cells: Tensor) -> Token:
    """Draw a code that occurs: cells [B, L, 8, 8, 3, h, w]."""
    assert agent.model.perceiver is not None
    tokenizer, grid, side = agent.model.perceiver.tokenizer, tokens.shape[-1], cells.shape[-1]
    is_here = tokens == code  # [B, L, 8, 8]
    row, column = divmod(int(is_here.sum((0, 1)).argmax()), grid)
    frame = tokenizer.decode(tokenizer.quantizer.codebook[code].expand(1, grid * grid, -1))
    whole = to_pictures(agent.model.frame_norm.restore(frame))[0]
    decoded = whole[row * side : (row + 1) * side, column * side : (column + 1) * side]
    real = cells[:, :, row, column][is_here[:, :, row, column].to(cells.device)].mean(0)
    return Token(code, share, (row, column), decoded, to_pictures(real))
