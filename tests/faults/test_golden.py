"""A checkpoint of an earlier day: loaded, played and gone on with, or refused with the reason."""

import struct

import numpy as np
import torch

from agent import Trainer, load
from agent.run_folder.load import run_config
from run_agent import main
from tests.faults.golden_run import unpack


def test_its_weights_are_read_as_they_were_written(tmp_path):
    unpack(tmp_path)
    agent = load(tmp_path, "cpu")
    assert agent.updates == 1
    read = 0
    for name, parameter in agent.model.named_parameters():
        expected = (np.arange(parameter.numel()) % 7 / 8).reshape(parameter.shape)
        if parameter.ndim > 0:
            np.testing.assert_array_equal(parameter.detach().numpy(), expected.astype(np.float32), err_msg=name)
            read += parameter.numel()
    assert read > 100_000


def test_its_run_is_restored(tmp_path):
    unpack(tmp_path)
    config, payload = run_config(tmp_path, print)
    trainer = Trainer(config, tmp_path, resume=payload is not None, quiet=True)
    try:
        assert (trainer.env_frames, trainer.agent.updates) == (70, 1)
        assert len(trainer.replay) == 52  # two episodes of 26 rows
        assert trainer.replay.num_staged == 70 + 3 - 52  # every episode has a first row, for which nothing was decided
        moments = trainer.agent.model_learner.optimizer.state_dict()["state"]
        assert all(float(moment["step"]) == 1 for moment in moments.values())
        frame = trainer.replay.sample(1, 52).image[0, 0]
        assert frame.dtype == torch.uint8
        assert 0 < frame.float().mean() < 255
    finally:
        trainer.close()


def test_version_1_says_why_not(tmp_path, capsys):
    path = unpack(tmp_path)
    data = bytearray(path.read_bytes())
    data[6:8] = struct.pack("<H", 1)
    path.write_bytes(data)
    for command in ("train", "evaluate", "record"):
        assert main([command, "--logdir", str(tmp_path)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert "format version 1, expected 2: version 1 holds neither the run's config nor the episodes" in lines[0]
