"""The screen: calm in a pipe, whole on a narrow terminal, silent if quiet; its estimates by hand."""

import io

import pytest
from rich.console import Console

from agent.training.display import Display


class Screen:
    """A display with a clock of its own and what it wrote."""

    def __init__(self, is_terminal: bool = False, width: int = 140, **options) -> None:
        self.now, self.file = 0.0, io.StringIO()
        console = Console(file=self.file, force_terminal=is_terminal, width=width)
        self.display = Display(1000, console=console, clock=lambda: self.now, **options)

    @property
    def text(self) -> str:
        return self.file.getvalue()


def test_elsewhere_than_on_a_terminal_one_plain_line_every_half_minute():
    screen = Screen()
    with screen.display:
        for second in range(0, 91):
            screen.now = float(second)
            screen.display.update(4 * second, 2 * second, {"train_return": 12.34, "update_share": 0.9})
        assert len(screen.text.splitlines()) == 3
        screen.display.update(364, 182, {})
    shown = screen.text.splitlines()
    assert len(shown) == 4  # the end is shown whenever it comes
    assert shown[-1].startswith("364/1,000 env_frames")
    assert shown[0] == "120/1,000 env_frames  60 updates (2.0/s)  return 12.3  ETA 0:03:40  update-bound"
    assert "\x1b" not in screen.text


def test_a_resumed_run_counts_its_speed_from_where_it_started():
    screen = Screen()
    screen.display.update(800, 5000, {})
    screen.now = 30.0
    screen.display.update(830, 5060, {"update_share": 0.1})
    assert screen.text == "830/1,000 env_frames  5,060 updates (2.0/s)  ETA 0:02:50  env-bound\n"


def test_quiet_shows_nothing():
    for is_terminal in (False, True):
        screen = Screen(is_terminal, quiet=True)
        with screen.display:
            for second in (0.0, 40.0, 80.0):
                screen.now = second
                screen.display.update(int(second), 1, {})
        assert screen.text == ""


def test_a_terminal_gets_a_bar_with_the_same_words():
    screen = Screen(is_terminal=True)
    with screen.display:
        screen.now = 10.0
        screen.display.update(500, 20, {"eval_return": 7.0})
    assert "500/1,000 env_frames" in screen.text
    assert "eval 7.0" in screen.text
    assert "50 %" in screen.text


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_note_is_shown_as_it_is_and_above_the_bar(is_terminal):
    screen = Screen(is_terminal)
    with screen.display:
        screen.display.update(1, 1, {})
        screen.display.note("x 1 is below 2: try [more] of rgb_nonfinite/total_elbo")
    assert "x 1 is below 2: try [more] of rgb_nonfinite/total_elbo\n" in screen.text


def test_a_quiet_display_shows_no_note():
    screen = Screen(quiet=True)
    screen.display.note("something")
    assert screen.text == ""


def test_no_estimate_comes_from_the_prefill():
    screen = Screen()
    for second, frames, updates in (
        (0, 0, 0),
        (30, 300, 0),
        (60, 600, 0),
        (80, 610, 20),
        (90, 620, 40),
        (120, 650, 100),
    ):
        screen.now = float(second)
        screen.display.update(frames, updates, {})
    shown = screen.text.splitlines()
    assert shown[0] == "300/1,000 env_frames  0 updates  prefill"
    # From the first update on an env_frame takes a second, not the tenth of one that it took before.
    assert shown[2] == "620/1,000 env_frames  40 updates (2.0/s)  ETA 0:06:20"
    assert shown[3] == "650/1,000 env_frames  100 updates (2.0/s)  ETA 0:05:50"


def test_the_end_has_no_time_left():
    screen = Screen()
    for second, frames in ((0, 900), (30, 1000)):
        screen.now = float(second)
        screen.display.update(frames, frames, {})
    assert screen.text == "1,000/1,000 env_frames  1,000 updates (3.3/s)\n"


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_loses_no_word(width):
    screen = Screen(is_terminal=True, width=width)
    recent = {"train_return": 512.3, "eval_return": 481.2, "update_share": 0.8}
    with screen.display:
        screen.display.update(500, 1, recent)
        screen.now = 10.0
        screen.display.update(600, 51, recent)
        screen.display.busy("evaluating 3 episodes")
    words = screen.text.split()
    for word in ("60", "600/1,000", "(5.0/s)", "512.3", "481.2", "0:00:40", "update-bound"):
        assert word in words


def test_what_takes_long_is_named_beside_the_bar_until_the_next_update():
    screen = Screen(is_terminal=True)
    with screen.display:
        screen.display.update(500, 20, {})
        screen.display.busy("evaluating 3 episodes")
        screen.display.note("a note redraws the bar")
        assert "20 updates  evaluating 3 episodes" in screen.text
        screen.now = 10.0
        screen.display.update(501, 21, {})
    assert "evaluating" not in screen.text.rsplit("501/1,000", 1)[1]


def test_offline_updates_are_counted_first_and_then_env_frames():
    screen = Screen(offline_updates=300)
    screen.display.update(0, 0, {})
    screen.now = 30.0
    screen.display.update(0, 60, {"update_share": 1.0})
    screen.now = 60.0
    screen.display.update(8, 300, {})
    screen.now = 90.0
    screen.display.update(38, 315, {"update_share": 0.9})
    first, last = screen.text.splitlines()[0], screen.text.splitlines()[-1]
    assert first == "offline 60/300 updates (2.0/s)  ETA 0:02:00"
    assert last == "38/1,000 env_frames  315 updates (0.5/s)  ETA 0:16:02  update-bound"


def test_a_bar_of_a_run_that_plays_nothing():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Display(0, console=console, offline_updates=4) as display:
        display.update(0, 1, {})
    assert " 25 %" in console.file.getvalue()
