"""The conv trunk and the decoder that mirrors it."""

import pytest
import torch
from torch.nn import functional

from agent.config.presets import make_config
from tests.world_model.small_model import make_model, make_sample, rng
from world_model.encoder_decoder.decoder import Decoder
from world_model.layers import FromBlocks, ToBlocks
from world_model.trunk import ConvTrunk


@pytest.mark.parametrize("size", [32, 64, 96, 128])
@pytest.mark.parametrize("stem_stride", [2, 4, 8])
def test_trunk_and_decoder_agree_on_their_shapes(stem_stride: int, size: int) -> None:
    frames = torch.randn(2, 3, size, size)
    for frame_stack in (1, 2):
        trunk = ConvTrunk(8, False, stem_stride, frame_stack, size)
        features, fine = trunk.halfway(frames.repeat(1, frame_stack, 1, 1))
        assert features.shape == (2, 32, 8, 8)
        assert fine.shape == (2, trunk.half_channels, 16, 16)
        torch.testing.assert_close(trunk(frames.repeat(1, frame_stack, 1, 1)), features, rtol=0, atol=0)
    decoder = Decoder(5, num_slots=3, base_channels=8, stem_stride=stem_stride, image_size=size)
    assert decoder(torch.randn(2, 5), torch.full((2, 3, 8, 8), 1 / 64)).shape == frames.shape


@pytest.mark.parametrize("stem_stride", [2, 4, 8])
@pytest.mark.parametrize("size", [32, 96, 128])
def test_every_pixel_of_a_frame_of_any_size_is_seen_and_drawn(stem_stride: int, size: int) -> None:
    frame = torch.randn(1, 3, size, size, requires_grad=True)
    trunk = ConvTrunk(8, False, stem_stride, image_size=size)
    (seen,) = torch.autograd.grad(trunk(frame).square().sum(), frame)
    assert (seen != 0).any(1).all()
    decoder = Decoder(5, num_slots=3, base_channels=8, stem_stride=stem_stride, image_size=size)
    drawn = decoder(torch.randn(2, 5), torch.full((2, 3, 8, 8), 1 / 64))
    assert (drawn[0] != drawn[1]).any(0).all()


@pytest.mark.parametrize("size", [-32, 33, 80])
def test_a_size_that_the_trunk_cannot_halve_is_named(size: int) -> None:
    with pytest.raises(ValueError, match=rf"^env\.size: got {size}, expected a multiple of 32 up to 256, which"):
        make_config("debug", "counting", {"env.size": size})
    with pytest.raises(ValueError, match=rf"^image_size: got {size}, expected a"):
        make_model(image_size=size)


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
