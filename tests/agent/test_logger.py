"""The record of a run: what is written can be read back, a resumed run leaves no line twice, the screen stays calm."""

import csv
import io
import json
import math
import time

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agent.logger import Display, Logger


def counters(env_frames: int, updates: int) -> dict[str, float]:
    return {"env_frames": env_frames, "agent_steps": env_frames // 2, "updates": updates, "wall_seconds": 1.5}


def lines(logdir) -> list[dict]:
    return [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]


def board(logdir) -> EventAccumulator:
    events = EventAccumulator(str(logdir / "tensorboard"))
    events.Reload()
    return events


def test_a_line_is_flat_counters_first_and_strict_json(tmp_path):
    logger = Logger(tmp_path / "run")
    metrics = {"loss": torch.tensor(2.5), "bad": math.nan, "worse": -math.inf, "big": 1e300}
    logger.write(counters(10, 5), metrics)
    text = (tmp_path / "run" / "metrics.jsonl").read_text()  # readable while the run goes on
    row = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    expected = counters(10, 5) | {"loss": 2.5, "bad": None, "worse": None, "big": 1e300}
    assert row == expected
    assert list(row) == list(expected)
    logger.close()


def test_csv_holds_every_column_and_every_line(tmp_path):
    logger = Logger(tmp_path)
    logger.write(counters(2, 0), {"train_return": 3.0})
    logger.write(counters(4, 1), {"loss": 0.25, "bad": math.nan})
    logger.close()
    logger.close()
    with open(tmp_path / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["env_frames"] for row in rows] == ["2", "4"]
    assert [row["train_return"] for row in rows] == ["3.0", ""]
    assert [row["loss"] for row in rows] == ["", "0.25"]
    assert [row["bad"] for row in rows] == ["", ""]


def test_a_resumed_run_drops_what_the_killed_one_had_written_beyond_its_checkpoint(tmp_path):
    logger = Logger(tmp_path)
    for step in range(1, 6):
        logger.write(counters(100 * step, 10 * step), {"loss": float(step)})
    logger.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"env_frames": 600, "upda')  # killed in the middle of a line
    time.sleep(1.1)  # TensorBoard reads files in the order of their names: seconds first, then a counter as text
    logger = Logger(tmp_path, updates=30)
    assert [row["updates"] for row in lines(tmp_path)] == [10, 20, 30]
    logger.write(counters(400, 40), {"loss": -4.0})
    logger.close()
    assert [row["loss"] for row in lines(tmp_path)] == [1, 2, 3, -4]
    scalars = board(tmp_path).Scalars("loss")
    assert [(event.step, event.value) for event in scalars] == [(100, 1), (200, 2), (300, 3), (400, -4)]


def test_lines_of_the_prefill_are_told_apart_by_env_frames(tmp_path):
    logger = Logger(tmp_path)
    for frames in (10, 20, 30):
        logger.write(counters(frames, 0), {"train_return": 1.0})
    logger.close()
    Logger(tmp_path, updates=0, env_frames=20).close()
    assert [row["env_frames"] for row in lines(tmp_path)] == [10, 20]


def test_a_new_run_starts_with_empty_files(tmp_path):
    logger = Logger(tmp_path)
    logger.write(counters(10, 1), {"loss": 1.0})
    logger.close()
    logger = Logger(tmp_path)
    logger.write(counters(5, 1), {"loss": 2.0})
    logger.close()
    assert [row["loss"] for row in lines(tmp_path)] == [2.0]
    assert [event.value for event in board(tmp_path).Scalars("loss")] == [2.0]


def test_a_video_is_an_animated_image_of_the_right_frames(tmp_path):
    frames = np.zeros((4, 16, 24, 3), np.uint8)
    frames[np.arange(4), :, :, 0] = np.array([0, 80, 160, 240])[:, None, None]
    logger = Logger(tmp_path)
    logger.write(counters(50, 2), {"loss": 1.0})
    logger.video("eval", frames, fps=10)
    logger.close()
    (event,) = board(tmp_path).Images("eval")
    assert (event.step, event.width, event.height) == (50, 24, 16)
    decoded = imageio.imread(event.encoded_image_string, extension=".gif")
    np.testing.assert_allclose(decoded[..., :3].astype(int), frames, atol=8)  # a palette of 256 colours


class Screen:
    """A display with a clock of its own and what it wrote."""

    def __init__(self, is_terminal: bool = False, **options) -> None:
        self.now, self.file = 0.0, io.StringIO()
        console = Console(file=self.file, force_terminal=is_terminal, width=140)
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


def test_notes_are_kept_at_the_env_frames_of_the_last_line(tmp_path):
    logger = Logger(tmp_path)
    logger.write(counters(70, 3), {"loss": 1.0})
    logger.note("x 1 is below 2")
    logger.close()
    (event,) = board(tmp_path).Tensors("health/text_summary")
    assert event.step == 70
    assert event.tensor_proto.string_val == [b"x 1 is below 2"]
