"""metrics.jsonl, the lock and W&B's run id: whatever they hold, a run that goes on is not disturbed."""

import json

import pytest

from agent.run_folder.load import run_config
from agent.run_folder.logger import Logger, read_metrics
from agent.training.trainer import Trainer
from tests.faults.golden_run import unpack

GOOD = {"env_frames": 10, "agent_steps": 10, "updates": 1, "wall_seconds": 1.0, "loss": 0.5}
LINES = [
    "[" * 50_000,
    "null",
    "[1]",
    "\0\0\0",
    '{"env_frames": "ten", "updates": 1}',
    '{"env_frames": 1e400, "updates": 1}',
    '{"env_frames": 1.5, "updates": 1}',
    '{"env_frames": -1, "updates": 1}',
    '{"env_frames": true, "updates": 1}',
    '{"env_frames": 1' + "0" * 30 + ', "updates": 1}',
    '{"env_frames": 5, "updates": [1]}',
    '{"env_frames": 5, "updates": 1, "loss": {"a": 1}}',
    '{"env_frames": 5, "updates": 1, "\\ud800": 1}',
    '{"env_frames": 5, "updates": 1, "a\\nb": 1}',
    '{"env_frames": 1' + "0" * 5000 + "}",
]


@pytest.mark.parametrize("line", LINES, ids=range(len(LINES)))
def test_lines_that_are_none_of_ours_are_left_out(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{line}\n{json.dumps(GOOD)}\n{line}\n", encoding="utf-8")
    logger = Logger(tmp_path, updates=5, env_frames=50)
    logger.write(GOOD | {"env_frames": 60, "updates": 6}, {"loss": 0.25})
    logger.close()
    assert [row["env_frames"] for row in read_metrics(path)] == [10, 60]
    assert len((tmp_path / "progress.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("text", ["", "{", '{"pid": 10000000000, "host": "x"}', "\0" * 100, "[" * 50_000])
def test_a_run_goes_on_over_any_other_file(tmp_path, text):
    unpack(tmp_path)
    for name in ("lock", "evaluation.json", "progress.csv", "metrics.jsonl", "wandb/run_id"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    config, payload = run_config(tmp_path, print)
    trainer = Trainer(config, tmp_path, resume=payload is not None, quiet=True)
    trainer.close()
    assert trainer.env_frames == 70
    assert list(read_metrics(tmp_path / "metrics.jsonl")) == []
