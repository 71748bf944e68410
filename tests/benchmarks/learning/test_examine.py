"""benchmarks/learning/examine.py: what the policy earns in dreams stands beside what it earned."""

import importlib
import json

import pytest
import torch

import run_agent


def test_the_rewards_of_dreams_stand_beside_those_that_came(monkeypatch, tmp_path):
    examine, threads = importlib.import_module("benchmarks.learning.examine"), torch.get_num_threads()
    run = ["--preset", "debug", "--logdir", str(tmp_path / "run"), "--env_frames", "120", "--train.video_frames", "0"]
    assert run_agent.main(["train", *run]) == 0
    options = ["--episodes", "2", "--mode", "deterministic", "--dream_noise", "0", "--json", str(tmp_path / "out.json")]
    assert examine.main([str(tmp_path / "run"), *options]) == 0
    torch.set_num_threads(threads)
    report = json.loads((tmp_path / "out.json").read_text())
    assert (report["run"]["mode"], report["run"]["dream_noise"]) == ("deterministic", 0.0)
    # `counting` pays t for frame t, 1 to 10, whatever is done: five frames are seen, the last of them frame 4
    assert report["run"]["return"] == 55.0
    assert report["figures"]["policy/reality/+1"] == 5.0
    assert report["figures"]["policy/reality/+5"] == 9.0
    assert {"policy/dream/+1", "policy/dream/+5", "policy/dream, actions that came/+5"} <= report["figures"].keys()


def test_a_run_that_is_not_there_is_one_line(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module("benchmarks.learning.examine").main([str(tmp_path / "nowhere")])
    assert "nowhere" in capsys.readouterr().err
