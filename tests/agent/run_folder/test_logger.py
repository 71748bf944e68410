"""The record of a run: what is written can be read back, a resumed run leaves no line twice, mirrors are told all."""

import csv
import json
import math
import time

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.summary.writer import event_file_writer

from agent.run_folder.logger import Logger
from agent.run_folder.mirror import Mirror
from agent.run_folder.trackers import TRACKERS, open_trackers


@pytest.fixture(autouse=True)
def _first_writers_of_this_process(monkeypatch):
    """TensorBoard numbers the files of a second, and reads `.9` after `.10`."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def counters(env_frames: int, updates: int) -> dict[str, float]:
    return {"env_frames": env_frames, "agent_steps": env_frames // 2, "updates": updates, "wall_seconds": 1.5}


def lines(logdir) -> list[dict]:
    return [json.loads(line) for line in (logdir / "metrics.jsonl").read_text().splitlines()]


def board(logdir) -> EventAccumulator:
    events = EventAccumulator(str(logdir / "tensorboard"))
    events.Reload()
    return events


def logger_with_board(logdir, settings=None, **counters) -> Logger:
    logger = Logger(logdir, **counters)
    logger.attach(*open_trackers(["tensorboard"], logdir, settings or {}, False, print))
    return logger


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
    logger = logger_with_board(tmp_path)
    for step in range(1, 6):
        logger.write(counters(100 * step, 10 * step), {"loss": float(step)})
    logger.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"env_frames": 600, "upda')  # killed in the middle of a line
    time.sleep(1.1)  # TensorBoard reads files in the order of their names: seconds first, then a counter as text
    logger = logger_with_board(tmp_path, updates=30)
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
    logger = logger_with_board(tmp_path)
    logger.write(counters(10, 1), {"loss": 1.0})
    logger.close()
    logger = logger_with_board(tmp_path)
    logger.write(counters(5, 1), {"loss": 2.0})
    logger.close()
    assert [row["loss"] for row in lines(tmp_path)] == [2.0]
    assert [event.value for event in board(tmp_path).Scalars("loss")] == [2.0]


def test_a_video_is_an_animated_image_of_the_right_frames(tmp_path):
    frames = np.zeros((4, 16, 24, 3), np.uint8)
    frames[np.arange(4), :, :, 0] = np.array([0, 80, 160, 240])[:, None, None]
    logger = logger_with_board(tmp_path)
    logger.write(counters(50, 2), {"loss": 1.0})
    logger.video("eval", frames, fps=10)
    logger.close()
    (event,) = board(tmp_path).Images("eval")
    assert (event.step, event.width, event.height) == (50, 24, 16)
    decoded = imageio.imread(event.encoded_image_string, extension=".gif")
    np.testing.assert_allclose(decoded[..., :3].astype(int), frames, atol=8)  # a palette of 256 colours


def test_notes_are_kept_at_the_env_frames_of_the_last_line(tmp_path):
    logger = logger_with_board(tmp_path)
    logger.write(counters(70, 3), {"loss": 1.0})
    logger.note("x 1 is below 2")
    logger.close()
    (event,) = board(tmp_path).Tensors("health/text_summary")
    assert event.step == 70
    assert event.tensor_proto.string_val == [b"x 1 is below 2"]


def test_tensorboard_shows_the_settings_in_the_one_event_file(tmp_path):
    settings = {"task": "reaching", "seed": 3, "losses": {"beta": [[0, 0.5]]}, "compile": True, "size": None}
    logger = logger_with_board(tmp_path, settings | {"env": {"x": 0.25}})
    logger.write(counters(70, 3), {"eval_return": 1.0})
    logger.close()
    assert len(list((tmp_path / "tensorboard").rglob("*"))) == 1
    events = board(tmp_path)
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    shown = metadata.parse_session_start_info_plugin_data(content).hparams
    assert {name: value.WhichOneof("kind") for name, value in shown.items()} == {
        name: "number_value" if name in ("seed", "env.x") else "string_value"
        for name in ("task", "seed", "losses.beta", "compile", "size", "env.x")
    }
    assert shown["seed"].number_value == 3
    assert (shown["losses.beta"].string_value, shown["compile"].string_value) == ("[[0, 0.5]]", "True")
    experiment = events.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    (metric,) = metadata.parse_experiment_plugin_data(experiment).metric_infos
    assert metric.name.tag == "eval_return"
    assert [event.value for event in events.Scalars("eval_return")] == [1.0]


class Told(Mirror):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list = []

    def begin(self, env_frames):
        self.told.append(env_frames)

    def write(self, counters, metrics):
        self.told.append((counters, metrics))

    def video(self, tag, gif, env_frames):
        self.told.append((tag, gif[:4], env_frames))

    def note(self, line, env_frames):
        self.told.append((line, env_frames))

    def close(self):
        self.told.append("end")


def test_a_mirror_is_told_everything_but_what_is_not_finite_and_the_end_once(tmp_path):
    logger, mirror = Logger(tmp_path), Told()
    logger.write(counters(10, 1), {"loss": 9.0})
    logger.attach(mirror)
    logger.write(counters(20, 2), {"loss": torch.tensor(0.5), "bad": math.nan})
    logger.video("evaluation", np.zeros((2, 8, 8, 3), np.uint8), fps=10)
    logger.note("x 1 is below its range")
    logger.close()
    logger.close()
    line = (counters(20, 2), {"loss": 0.5})
    assert mirror.told == [10, line, ("evaluation", b"GIF8", 20), ("x 1 is below its range", 20), "end"]


class Failing(Told):
    """Fails at one of its methods."""

    title = "Service"
    at = ""

    def __init__(self, *_: object) -> None:
        if self.at == "__init__":
            raise OSError("no\nway")
        super().__init__()
        type(self).latest = self

    def __getattribute__(self, name):
        if name == type(self).at:
            raise OSError("no\nway")
        return super().__getattribute__(name)


@pytest.mark.parametrize("at", ["__init__", "begin", "write", "video", "note", "flush", "close"])
def test_a_tracker_that_fails_anywhere_is_told_once_and_the_log_goes_on(tmp_path, monkeypatch, at):
    monkeypatch.setattr(Failing, "at", at)
    monkeypatch.setitem(TRACKERS, "service", Failing)
    said: list[str] = []
    logger = Logger(tmp_path)
    other = Told()
    logger.attach(*open_trackers(["service", "service"], tmp_path, {}, False, said.append), other)
    for step in (10, 20):
        logger.write(counters(step, 1), {"loss": 9.0})
        logger.video("evaluation", np.zeros((2, 8, 8, 3), np.uint8), fps=10)
        logger.note("x 1 is below its range")
        logger.flush()
    logger.close()
    remedy = "the rest is lost" if at == "close" else "the run continues without it"
    assert said == [f"Service: OSError: no way; {remedy}"]
    assert len(lines(tmp_path)) == 2
    assert len(other.told) == 1 + 2 * 3 + 1
