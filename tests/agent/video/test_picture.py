"""Pictures are where they should be, in the colours that they should have."""

import numpy as np
import pytest

from agent.video.picture import Caption, darken, enlarge, overlay, palette, stack, tile


def flat(value, height=4, width=6):
    return np.full((height, width, 3), value, np.uint8)


def test_tiles_lie_in_rows():
    picture = tile([flat(10), flat(20), flat(30)], columns=2, gap=2)
    assert picture.shape == (10, 14, 3)
    assert (picture[:4, :6] == 10).all()
    assert (picture[:4, 8:] == 20).all()
    assert (picture[6:, :6] == 30).all()
    assert (picture[6:, 8:] == 255).all()  # the place that is left is white, as the gaps are
    assert (picture[4:6] == 255).all()
    assert (picture[:, 6:8] == 255).all()


def test_stacked_pictures_keep_their_left_edge():
    picture = stack([flat(10, 2, 6), flat(20, 3, 4)])
    assert picture.shape == (5, 6, 3)
    assert (picture[2:, :4] == 20).all()
    assert (picture[2:, 4:] == 255).all()


def test_enlarged_pixels_are_squares_and_dark_ones_a_third():
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    large = enlarge(picture, 3)
    assert large.shape == (6, 6, 3)
    assert (large[3:, :3] == picture[1, 0]).all()
    assert (darken(flat(90)) == 30).all()
    assert darken(flat(90), 1)[:, 0, 0].tolist() == [30, 90, 90, 90]


def test_colours_differ():
    assert len({tuple(colour) for colour in palette(21).tolist()}) == 21
    np.testing.assert_array_equal(palette(30)[:4], palette(4))


@pytest.mark.parametrize("width", [60, 140, 400])
def test_a_caption_keeps_its_size_and_shows_every_field(width):
    caption = Caption(width, ("0000.00 s", "reward -00.00", "return -0000.0"), size=12)
    empty = caption.draw("", "", "")
    assert empty.shape[1] == width
    assert (empty == 255).all()
    full = caption.draw("1234.56 s", "reward -12.34", "return -1234.5")
    assert full.shape == empty.shape
    for one in (("8", "", ""), ("", "8", ""), ("", "", "8")):
        assert (caption.draw(*one) < 128).any()
    assert (full[:, -1] == 255).all() or width == 60  # nothing is cut where there is room
    assert (
        (Caption(400, ("a", "b"), 12).draw("a", "b").shape[0]) < Caption(20, ("aaa", "bbb"), 12).draw("", "").shape[0]
    )


def test_attention_colours_the_cells_that_it_is_on():
    maps = np.full((2, 8, 8), 1e-4)
    maps[0, 1, 1] = maps[1, 6, 5] = 1.0
    picture = overlay(flat(128, 64, 64), maps).astype(int)
    first, second = palette(2).astype(int)
    assert np.abs(picture[12, 12] - (128 + first) / 2).max() < 20
    assert np.abs(picture[52, 44] - (128 + second) / 2).max() < 20
    assert np.abs(picture[40, 10] - 128).max() < 3  # no slot looks here
    ptp = np.ptp(overlay(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), maps)[36, :16], axis=-1)
    assert ptp.max() <= 2  # what no slot looks at has no colour
