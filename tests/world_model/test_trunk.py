"""The conv trunk and the decoder that mirrors it."""

import pytest
import torch
from torch.nn import functional

from tests.world_model.small_model import make_model, make_sample, rng
from world_model.encoder_decoder.decoder import Decoder
from world_model.layers import FromBlocks, ToBlocks
from world_model.trunk import ConvTrunk


@pytest.mark.parametrize("stem_stride", [2, 4, 8])
def test_trunk_and_decoder_agree_on_their_shapes(stem_stride: int) -> None:
    frames = torch.randn(2, 3, 64, 64)
    for frame_stack in (1, 2):
        trunk = ConvTrunk(8, residual=False, stem_stride=stem_stride, frame_stack=frame_stack)
        assert trunk(frames.repeat(1, frame_stack, 1, 1)).shape == (2, 32, 8, 8)
    decoder = Decoder(feature_dim=5, num_slots=3, base_channels=8, stem_stride=stem_stride)
    assert decoder(torch.randn(2, 5), torch.full((2, 3, 8, 8), 1 / 64)).shape == frames.shape


def test_blocks_are_those_of_torch() -> None:
    frames = torch.randn(2, 3, 8, 12)
    blocks = ToBlocks(4)(frames)
    torch.testing.assert_close(blocks, functional.pixel_unshuffle(frames, 4), rtol=0, atol=0)
    torch.testing.assert_close(FromBlocks(4)(blocks), frames, rtol=0, atol=0)


def test_a_stem_of_stride_8_is_one_conv_of_kernel_16_over_the_pixels() -> None:
    torch.manual_seed(0)
    trunk, frames = ConvTrunk(8, residual=False, stem_stride=8), torch.randn(2, 3, 64, 64)
    stem = trunk.layers[1]
    # channel 16 c + 4 i + j of a block is pixel (i, j) of colour c; kernel entries (u, v) count blocks
    kernel = stem.weight.detach().view(32, 3, 4, 4, 4, 4)  # out, c, i, j, u, v
    kernel = kernel.permute(0, 1, 4, 2, 5, 3).reshape(32, 3, 16, 16)  # out, c, 4u + i, 4v + j
    expected = functional.conv2d(frames, kernel, stem.bias, stride=8, padding=4)
    torch.testing.assert_close(trunk.layers[:2](frames), expected, rtol=1e-4, atol=1e-4)


def test_a_pixel_reaches_only_features_within_its_kernel() -> None:
    torch.manual_seed(0)
    trunk, frames = ConvTrunk(8, residual=False, stem_stride=8), torch.zeros(1, 3, 64, 64)
    touched = frames.clone()
    touched[0, 0, 20, 20] = 1.0  # the kernel of row n covers pixels 8 n - 4 to 8 n + 11
    change = (trunk.layers[:2](touched) - trunk.layers[:2](frames)).abs().sum(1)[0]
    assert set(map(tuple, change.nonzero().tolist())) == {(y, x) for y in (2, 3) for x in (2, 3)}


def test_a_perceiver_that_does_not_train_the_trunk_computes_the_same_from_it():
    outputs = {}
    for trains in (True, False):
        model, sample = make_model(perceiver_config={"trains_trunk": trains}), make_sample()
        found = model(*sample, generator=rng())
        outputs[trains] = found.losses
        loss = sum(found.losses[name].mean() for name in ("vq_recon", "vq_commit", "next_token_ce"))
        sources = (next(model.trunk.parameters()), model.perceiver.tokenizer.project.weight)
        trunk, own = torch.autograd.grad(loss, sources, allow_unused=True)
        assert own.any()
        assert (trunk is not None and bool(trunk.any())) is trains
    assert all(torch.equal(loss, outputs[False][name]) for name, loss in outputs[True].items())
