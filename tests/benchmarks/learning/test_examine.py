"""examine: what the policy earns in dreams stands beside what it earned."""

import json

import pytest

from benchmarks.learning import examine


def test_the_rewards_of_dreams_stand_beside_those_that_came(finished_run, tmp_path):
    options = ["--episodes", "2", "--mode", "deterministic", "--dream_noise", "0", "--json", str(tmp_path / "out.json")]
    assert examine.main([str(finished_run), *options]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert (report["settings"]["mode"], report["run"]["dream_noise"]) == ("deterministic", 0.0)
    # `counting` pays t for frame t, 1 to 10, whatever is done: five frames are seen, the last of them frame 4
    assert report["run"]["return"] == 55.0
    assert report["figures"]["policy/reality/+1"] == 5.0
    assert report["figures"]["policy/reality/+5"] == 9.0
    # 1 + 2 + ... up to the last frame, of which the critic's value stands for the rest; γ is close to 1
    assert 30 < report["figures"]["policy/return"] < 60
    # 15 of 16 dreams start at frame 4 and one at frame 5; their rewards are still about 0, the mean of all frames is 5
    assert report["figures"]["open loop reward/+5"] == pytest.approx((15 * 9 + 10) / (15 * 4 + 5), rel=1e-3)
    assert {"policy/value", "policy/dream/+1", "policy/dream/+5", "policy/dream, actions that came/+5"} <= report[
        "figures"
    ].keys()


def test_a_run_that_is_not_there_is_one_line(tmp_path, capsys):
    assert examine.main([str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nowhere" in error
