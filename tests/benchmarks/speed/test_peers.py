"""peers runs, takes turns and reports what it promises, beside a folder that looks like a peer."""

import json
import textwrap
from pathlib import Path

import pytest

from benchmarks.speed import peers

FAKE_PEER = {
    "models.py": """
        import torch

        class WorldModel(torch.nn.Module):
            def __init__(self, obs_space, act_space, step, config):
                super().__init__()
                assert obs_space.spaces["image"].shape == (64, 64, 3)
                assert (config.num_actions, config.device, config.units, config.batch_size) == (6, "cpu", 512, 2)
                assert config.encoder == {"cnn_keys": "image", "depth": 32}
                self.weight = torch.nn.Parameter(torch.zeros(1000))

            def _train(self, data):
                assert data["image"].shape == (2, 4, 64, 64, 3) and data["image"].dtype == "uint8"
                assert data["action"].shape == (2, 4, 6) and data["is_first"][:, 0].all()
                assert not self.weight.requires_grad
                print("not an answer")
                return "posterior", None, {}

        class ImagBehavior(torch.nn.Module):
            def __init__(self, config, world_model):
                super().__init__()
                self.world_model = world_model
                self.actor = torch.nn.Linear(10, 1)
                self.value = torch.nn.Linear(20, 1)
                self.slow_value = torch.nn.Linear(20, 1)

            def _train(self, start, reward):
                assert start == "posterior" and callable(reward)
    """,
    "ruamel/yaml.py": """
        import yaml

        class YAML:
            def __init__(self, **_):
                self.load = yaml.safe_load
    """,
    "configs.yaml": """
        defaults: {units: 512, precision: 32, device: "cuda:0", encoder: {cnn_keys: none, depth: 32}}
        dmc_vision: {encoder: {cnn_keys: image}}
    """,
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like a peer: what it is handed is asserted in its own process."""
    for name, text in FAKE_PEER.items():
        path = tmp_path / "peer" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path / "peer"


SMALL = ["--peer", "dreamerv3-torch", "--preset", "debug", "--batch", "2", "--length", "4", "--threads", "1"]


@pytest.mark.slow
def test_peers_compares_processes_that_take_turns(checkout, tmp_path, capsys):
    path = tmp_path / "out.json"
    arguments = [*SMALL, "--size", "10m", "--repeats", "1", "--device", "cpu", "--checkout", str(checkout)]
    assert peers.main([*arguments, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert list(report["sides"]) == ["dreamerv3-torch", "ours, same work", "ours, as preset"]
    peer, same, preset = report["sides"].values()
    assert peer["parameters"] == 1000 + 11 + 21  # model, actor, critic; no slow copy
    assert (
        same["parameters"] == preset["parameters"] == pytest.approx(10.5e6, rel=0.05)
    )  # debug's context adds its predictor
    assert preset["configuration"] == {"preset": "debug", "size": "10m", "compile": False, "precision": "float32"}
    assert same["configuration"]["behavior.start_fraction"] == 1.0
    for side in (peer, same, preset):
        assert len(side["seconds"]) == 1
        ratio = peer["median_seconds"] / side["median_seconds"]
        assert side["updates_per_second_by_peer"] == pytest.approx(ratio)
        assert {"python", "torch"} <= set(side["versions"])
    assert peer["commit"] == "unknown"
    printed = capsys.readouterr().out
    assert all(name in printed for name in report["sides"])


def test_a_peer_that_fails_is_said_in_one_line(checkout, capfd):
    (checkout / "models.py").write_text("raise ImportError('no such package')")
    assert peers.main([*SMALL, "--size", "10m", "--work", "as preset", "--checkout", str(checkout)]) == 1
    error = capfd.readouterr().err
    assert "no such package" in error  # its own words
    assert error.splitlines()[-1].startswith(
        "python -m benchmarks.speed.peers: error: dreamerv3-torch: its process ended"
    )


def test_turns_alternate_and_the_first_two_rounds_warm_up():
    asked: list[str] = []

    class Stub:
        def __init__(self, name: str, seconds: list[float]) -> None:
            self.name, self.seconds = name, iter(seconds)

        def turn(self) -> float:
            asked.append(self.name)
            return next(self.seconds)

    sides = {"a": Stub("a", [90, 80, 6, 2, 4]), "b": Stub("b", [70, 60, 1, 2, 9])}
    seconds = peers.take_turns(sides, repeats=3)
    assert asked == ["a", "b"] * 5
    assert seconds == {"a": [6, 2, 4], "b": [1, 2, 9]}
    found = peers.summary({"a": {"parameters": 10}, "b": {"parameters": 11}}, seconds)
    assert found["a"]["updates_per_second_by_peer"] == 1.0
    assert found["b"]["updates_per_second_by_peer"] == pytest.approx(4 / 2)
    assert found["b"]["parameters_by_peer"] == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--batch", "0"], "batch"),
        (["--threads", "-1"], "threads"),
        (["--repeats", "0"], "repeats"),
        (["--checkout", "/no/such/folder"], "checkout"),
        (["--size", "11m"], "unknown size"),
        (["--preset", "cpuu"], "cpu"),
        (["--json", "/no/such/folder/out.json"], "json"),
    ],
)
def test_bad_input_of_peers_is_one_line_and_status_2(tmp_path, capsys, arguments, named):
    given = ["--peer", "r2dreamer", "--checkout", str(tmp_path), "--device", "cpu", *arguments]
    assert peers.main(given) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert named in error
