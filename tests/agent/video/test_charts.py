"""Charts show the numbers that they were given, at their times."""

import numpy as np
import pytest

from agent.video.charts import column, line_chart, share_chart
from agent.video.picture import palette


def is_colour(picture, colour):
    return (np.abs(picture.astype(int) - colour) < 40).all(-1)


def test_shares_fill_their_columns():
    shares = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    picture = share_chart("parts:", shares, 400, 60).at(3)
    colours = palette(3)
    body = picture[20:]
    at = [column(t + 0.5, 4, 400) for t in range(3)]
    assert is_colour(body[:, at[0]], colours[0]).all()
    assert is_colour(body[:, at[1]], colours[2]).all()
    assert is_colour(body[:20, at[2]], colours[0]).all()  # half each, in the order of the parts
    assert is_colour(body[20:, at[2]], colours[1]).all()
    legend = picture[:20]
    assert is_colour(legend, colours[0]).any()
    assert not is_colour(legend, colours[1]).any()  # never the largest: the first of equals counts


def test_many_parts_fit():
    shares = np.random.default_rng(0).dirichlet(np.ones(40), 30).astype(np.float32)
    assert share_chart("parts:", shares, 776, 60).at(0).shape == (60, 776, 3)


def test_a_line_rises_with_its_values_and_breaks_at_nan():
    steps = 20
    rising = np.linspace(-1, 3, steps)
    late = np.where(np.arange(steps) < 10, np.nan, 1.0)
    picture = line_chart("r:", {"rising": rising, "late": late}, 500, 120).at(0)[20:]
    blue = is_colour(picture, palette(1)[0])  # the second line's
    black = (picture < 120).all(-1)
    left = [column(t + 0.5, steps, 500) for t in range(steps)]
    assert not blue[:, : left[10] - 2].any()
    assert blue[:, left[11] : left[18]].any(0).all()
    heights = [np.flatnonzero(black[:, left[t]]).mean() for t in (3, 8, 13, 18)]
    np.testing.assert_allclose(np.diff(heights), np.diff(heights)[0], atol=1.5)
    assert heights[0] > heights[-1] + 60  # upwards is more
    flat = np.flatnonzero(blue[:, left[15]]).mean()
    halfway = (np.flatnonzero(black[:, left[9]]).mean() + np.flatnonzero(black[:, left[10]]).mean()) / 2
    assert flat == pytest.approx(halfway, abs=2)  # both are 1 there


@pytest.mark.parametrize("values", [np.zeros(5), np.full(1, 7.0), np.array([np.nan, 2.0])])
def test_constant_and_short_lines_are_drawn(values):
    assert line_chart("r:", {"a": values}, 300, 80).at(0).shape == (80, 300, 3)


def test_the_cursor_moves_with_time():
    chart = line_chart("r:", {"a": np.zeros(10)}, 300, 80)
    places = []
    for t in range(10):
        dark = (chart.at(t)[25:35] < 60).all((0, 2))
        places.append(np.flatnonzero(dark).mean())
    assert (np.diff(places) > 20).all()
    assert np.ptp(np.diff(places)) <= 1
