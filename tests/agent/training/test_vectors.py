"""Vectors from environment to agent, beside frames or alone: aligned, learned, resumed bit for bit, at every door."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict

from agent import AIME, Agent, Trainer, load, make_config
from agent.config.files import load_config
from agent.evaluation.episodes import evaluate
from agent.run_folder.checkpoint import load_newest
from agent.run_folder.contents import check_run
from agent.run_folder.datasets import open_dataset
from agent.training.player import Player, acting_weights
from envs import make_env
from envs.counting import decode_frame
from replay import EpisodeStore, episode_file
from run_agent import main
from tests.agent.training.payloads import assert_same_run
from tests.envs.pixel_worlds import VECTOR, World, image_space

# Episodes of reaching have 26 rows; the second one runs when the run is stopped, and updates have begun.
SHORT = {"env.vector": True, "env.num_envs": 1, "env_frames": 60, "replay.prefill_frames": 32, "train.train_ratio": 4}
SHORT |= {"train.eval_every": 50, "train.video_frames": 0, "train.log_every": 1}
WALKER = ["--task=walker_walk", "--preset=debug", "--env.kwargs={time_limit: 0.25}", "--env.num_envs=1"]  # 10 decisions


def train(logdir, task="reaching", resume=False, **changes):
    config = make_config("debug", task, SHORT | {name.replace("__", "."): value for name, value in changes.items()})
    trainer = Trainer(config, logdir, resume=resume, quiet=True)
    trainer.run()
    return trainer


def refused(capsys, *argv):
    capsys.readouterr()
    assert main([str(word) for word in argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0].removeprefix("run_agent.py: error: ")


def test_a_chunks_vector_is_that_of_its_frame(tmp_path):
    trainer = train(tmp_path, "counting", env__num_envs=2)
    assert trainer.config.world_model.vector_dim == 3
    for _ in range(5):
        chunk = trainer.replay.sample(4, 8)
        np.testing.assert_array_equal(chunk.vector.numpy(), np.stack(decode_frame(chunk.image.numpy()), -1))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    learned = [line for line in lines if "vector_recon" in line]
    assert learned
    assert {"vector_ratio", "recon_loss"} <= learned[-1].keys()


@pytest.fixture(scope="module", params=[64, 0], ids=["beside frames", "alone"])
def straight(request, tmp_path_factory):
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    train(folder, env__size=request.param)
    return folder


def test_a_run_resumes_bit_for_bit(tmp_path, straight):
    """The stop comes with an update in the middle of an episode."""
    size = load_config(straight / "config.yaml").env.size

    class Stopping(Agent):
        def update(self, chunk):
            if self.updates == 2:
                trainer.stop("test")
            return super().update(chunk)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.training.trainer.Agent", Stopping)
        trainer = Trainer(make_config("debug", "reaching", SHORT | {"env.size": size}), tmp_path, quiet=True)
        trainer.run()
    assert (trainer.agent.updates, trainer.replay.num_staged > 1) == (3, True)
    train(tmp_path, resume=True, env__size=size)
    assert_same_run(straight, tmp_path)


def test_without_vectors_nothing_of_them_is_stored(tmp_path):
    trainer = train(tmp_path, env__vector=False)
    payload, _ = load_newest(tmp_path / "checkpoints", "cpu", check_run)
    assert "vector" not in payload["collector"]["driver"]["row"]
    assert not any("vector" in name for name in payload["agent"]["model"])
    assert trainer.replay.sample(2, 8).vector is None
    del payload["config"]["env"]["vector"], payload["config"]["world_model"]["vector_dim"]  # as before there were any
    check_run(payload)


def test_a_checkpoint_with_a_vector_that_is_not_finite_is_refused(straight):
    payload, _ = load_newest(straight / "checkpoints", "cpu", check_run)
    payload["collector"]["driver"]["row"]["vector"][0, 1] = torch.nan
    with pytest.raises(ValueError, match=r"^collector.driver.row.vector: got numbers that are not finite, expected"):
        check_run(payload)


@pytest.fixture(scope="module")
def agent():
    return Agent(make_config("debug", "reaching", SHORT).with_vector(2), 1, "cpu")


def test_predict_takes_the_dict_that_the_environment_gives(agent):
    env = make_env("reaching", vector=True)
    observation, _ = env.reset(seed=1)
    single, _ = agent.predict(observation, deterministic=True)
    assert single.shape == (1,)
    batch = {name: np.stack([value, value]) for name, value in observation.items()}
    actions, state = agent.predict(batch, deterministic=True)
    np.testing.assert_allclose(actions, np.stack([single, single]), atol=1e-5)
    parts = {
        "eye": observation["image"].transpose(2, 0, 1),
        "b": observation["vector"][1],
        "a": observation["vector"][:1],
    }
    named, _ = agent.predict(parts, deterministic=True)  # joined in the order of their names
    np.testing.assert_allclose(named, single, atol=1e-5)
    batch["vector"] = batch["vector"] + np.array([[0.0], [0.5]], np.float32)
    other, _ = agent.predict(batch, state, deterministic=True)
    assert other[0] != other[1]
    assert evaluate(agent, 1).lengths == (25,)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"vector": np.zeros(3)}, "got 3 numbers in vector, expected 2 of each environment"),
        ({"vector": np.array([0, np.nan])}, "got numbers that are not finite in vector, expected 1 x 2 finite numbers"),
        ({"vector": "left"}, r"got <U4 \[\] in 'vector', expected 1 x 2 finite numbers"),
        ({"image": np.zeros(5)}, "got 0 images in a dict of image, vector, expected one"),
        ({"image": np.zeros((64, 64, 4), np.uint8)}, r"got uint8 \[64, 64, 4\], expected uint8 frames .*"),
        (None, "got ndarray, expected a dict of an image and of vectors"),
    ],
)
def test_predict_refuses_other_observations(agent, changes, line):
    observation = {"image": np.zeros((64, 64, 3), np.uint8), "vector": np.zeros(2, np.float32)}
    with pytest.raises(ValueError, match=f"^observation: {line}$"):
        agent.predict(observation["image"] if changes is None else observation | changes)


def test_predict_takes_a_vector_alone():
    agent = Agent(make_config("debug", "reaching", SHORT | {"env.size": 0}).with_vector(2), 1, "cpu")
    observation, _ = make_env("reaching", size=0).reset(seed=1)
    single, _ = agent.predict(observation, deterministic=True)
    batch, _ = agent.predict(np.stack([observation, observation + 1.0]), deterministic=True)
    assert (single.shape, batch.shape) == ((1,), (2, 1))
    np.testing.assert_allclose(batch[0], single, atol=1e-5)
    assert batch[0] != batch[1]
    for other, line in (
        ({"vector": observation}, r"got a dict, expected a vector \[2\], or a batch of them"),
        (np.zeros((64, 64, 3), np.uint8), r"got uint8 \[64, 64, 3\], expected a vector \[2\], or a batch of them"),
        (np.zeros(3), "got 3 numbers in vector, expected 2 of each environment"),
        (np.array([0, np.nan]), "got numbers that are not finite in vector, expected 1 x 2 finite numbers"),
    ):
        with pytest.raises(ValueError, match=f"^observation: {line}$"):
            agent.predict(other)


def test_an_agent_and_an_environment_of_other_vectors(agent):
    with pytest.raises(ValueError, match=r"^vectors: got shape \(1, 4\), expected shape \(1, 2\)$"):
        evaluate(agent, 1, env=lambda: make_env("reaching", vector=True, axes=2))
    with pytest.raises(ValueError, match=r"^vectors: got none, expected shape \(1, 2\)$"):
        evaluate(agent, 1, env=lambda: make_env("reaching"))
    with pytest.raises(ValueError, match=r"^world_model.vector_dim: got 2, expected 4, the numbers of reaching$"):
        agent.config.with_vector(4)


def test_a_player_elsewhere_sends_them():
    config = make_config("debug", "counting", SHORT)
    player = Player(config, 0, 0)
    weights = acting_weights(Agent(config.with_vector(3), 2, "cpu"))
    for given, updates in (({}, 0), (weights, 1)):  # random actions, then the agent's
        episode, _ = episode_file.decode(player.play(given, updates).files[0])
        np.testing.assert_array_equal(episode.vector, np.stack(decode_frame(episode.image), -1))


class Robot(World):
    """Its arm and its wheel hold what its picture shows."""

    def __init__(self, **settings):
        arm, wheel = (Box(-np.inf, np.inf, shape, np.float32) for shape in ((2,), ()))
        super().__init__(Dict(eye=image_space(16, 16, 3), arm=arm, wheel=wheel), **settings)

    def observe(self, space):
        shown = 10 * self.count + self.base
        arm, wheel = np.array([shown, -shown], np.float32), np.array(shown / 2, np.float32)
        return {"eye": np.full((16, 16, 3), shown, np.uint8), "arm": arm, "wheel": wheel}


class VectorWorld(World):
    """Its observation is a vector."""

    def __init__(self):
        super().__init__(VECTOR)


@pytest.mark.parametrize("is_vector_env", [False, True])
def test_as_an_algorithm_of_stable_baselines(tmp_path, is_vector_env):
    from stable_baselines3.common.vec_env import DummyVecEnv

    env = DummyVecEnv([Robot, Robot]) if is_vector_env else Robot()
    settings = {"replay": {"prefill_frames": 20, "capacity_steps": 500}}
    model = AIME(env, preset="debug", seed=1, device="cpu", **settings).learn(40)
    assert model.config.world_model.vector_dim == 3
    assert model.agent.updates > 0
    chunk = model.replay_buffer.sample(4, 5)
    shown = chunk.image[..., 0, 0, 0].float()
    torch.testing.assert_close(chunk.vector, torch.stack([shown, -shown, shown / 2], -1))
    model.save(tmp_path / "model")
    again = AIME.load(tmp_path / "model", Robot() if not is_vector_env else DummyVecEnv([Robot, Robot]))
    observation = again.env.reset()
    ours, theirs = (one.predict(observation, deterministic=True)[0] for one in (model, again))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "env", [VectorWorld, lambda: make_env("reaching", size=0, vector=True)], ids=["theirs", "ours"]
)
def test_an_environment_of_vectors_alone_under_stable_baselines(tmp_path, env):
    settings = {"replay": {"prefill_frames": 20, "capacity_steps": 500}}
    model = AIME(env(), preset="debug", seed=1, device="cpu", **settings).learn(40)
    assert (model.config.env.size, model.config.world_model.perceiver_config.enabled) == (0, False)
    assert model.agent.updates > 0
    model.save(tmp_path / "model")
    observation = model.env.reset()
    ours, theirs = (one.predict(observation, deterministic=True)[0] for one in (model, AIME.load(tmp_path / "model")))
    np.testing.assert_array_equal(ours, theirs)


def test_baselines_see_frames_alone(capsys):
    assert make_config("debug", "counting", {"algo": "ppo"}).env.vector is False
    line = refused(capsys, "train", "--preset=debug", "--algo=sac", "--env.vector=true")
    assert line == "env.vector: got true with algo sac, expected false: it sees frames alone"


def test_a_task_without_a_vector(tmp_path, capsys):
    task = "--task=gym:tests.envs.pixel_worlds:pixel_worlds/Seen-v0"
    line = refused(capsys, "train", task, "--preset=debug", "--env.vector=true", f"--logdir={tmp_path / 'run'}")
    assert line.startswith(
        "env.vector: got true for 'gym:tests.envs.pixel_worlds:pixel_worlds/Seen-v0', expected false: "
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (["--env.vector=false"], "env.size, env.vector: got 0 and false, expected frames, vectors or both"),
        (["--algo=sac"], "env.size: got 0 with algo sac, expected frames: it sees nothing else"),
        (["--replay.shift=4"], "replay.shift: got 4 with env.size 0, expected 0 to 0 pixels, half a frame"),
        (
            ["--world_model.perceiver_config.enabled=true"],
            "world_model.perceiver_config.enabled: got true, expected false with env.size 0",
        ),
        (
            ["--world_model.encoder_config.motion_dim=4"],
            "world_model.encoder_config.motion_dim: got 4, expected null with env.size 0",
        ),
    ],
)
def test_what_needs_frames_is_refused_without_them(tmp_path, capsys, settings, line):
    given = "train", "--task=reaching", "--preset=debug", "--env.size=0", f"--logdir={tmp_path / 'run'}"
    assert refused(capsys, *given, *settings) == line
    assert not (tmp_path / "run").exists()


def test_vectors_alone_through_the_public_doors(tmp_path, capsys, monkeypatch):
    """Train, evaluate, film, export, collect, learn from what was collected, and what there is no frame for."""
    monkeypatch.chdir(tmp_path)
    run, data = tmp_path / "run", tmp_path / "data"
    quick = ["--train.video_frames=0", "--train.eval_every=1000", "--env_frames=60", "--replay.prefill_frames=32"]
    train_on = ["train", "--task=reaching", "--preset=debug", "--env.num_envs=1", "--size=10m", *quick]
    small = ["--world_model.hidden_dim=16", "--behavior.hidden_dim=16"]
    assert main([*train_on, *small, "--env.size=0", f"--logdir={run}"]) == 0
    assert "env.size 0: vectors alone; pillars 1 and 4, which read frames, are off" in capsys.readouterr().out
    config = load_config(run / "config.yaml")
    assert (config.env.vector, config.world_model.vector_dim, config.world_model.encoder_config.gram_fraction) == (
        True,
        2,
        0,
    )
    assert not config.world_model.perceiver_config.enabled
    assert not config.world_model.attention_config.enabled
    assert main(["evaluate", f"--logdir={run}", "--episodes=1"]) == 0
    assert main(["record", f"--logdir={run}", f"--out={tmp_path / 'a.gif'}", "--planner=mppi"]) == 0
    assert main(["export", f"--logdir={run}", f"--out={tmp_path / 'a.aime'}"]) == 0
    assert main(["collect", f"--agent={tmp_path / 'a.aime'}", "--episodes=2", f"--out={data}"]) == 0
    found = open_dataset(str(data))
    assert (found.size, found.vector_dim) == (0, 2)
    offline = ["train", f"--offline={data}", "--preset=debug", "--train.offline_updates=2", "--quiet"]
    assert main([*offline, f"--logdir={tmp_path / 'offline'}"]) == 0
    line = refused(capsys, *offline, "--env.size=64", f"--logdir={tmp_path / 'other'}")
    assert line.startswith("env.size: got 64, expected 0 as in the episodes of data sha256:")
    for kind in ("dream", "imagine"):
        line = refused(capsys, "record", f"--logdir={run}", f"--{kind}")
        assert line == f"{kind}: got an agent of vectors alone (env.size 0), whose dreams have no frames to show"
    line = refused(capsys, "report", f"--logdir={run}")
    assert line == "report: got an agent of vectors alone (env.size 0), expected one that sees frames"
    line = refused(capsys, "train", "--task=reaching", "--preset=debug", f"--from={run}", "--logdir=other")
    assert line.startswith("from: got run/000000003.pt sha256:")
    assert " with 1 continuous action dimensions and no frames with vectors of 2 numbers, expected 1 " in line
    assert not (tmp_path / "other").exists()


def test_walkers_proprioception_through_the_public_doors(tmp_path, capsys, monkeypatch):
    """Train, evaluate, dream, export, collect, learn from what was collected, and what does not fit together."""
    monkeypatch.chdir(tmp_path)  # `evaluate` writes its results here
    run, data, file = tmp_path / "run", tmp_path / "data", tmp_path / "a.aime"
    quick = ["--quiet", "--train.video_frames=0", "--train.eval_every=1000"]
    sizes = ["--env_frames=48", "--replay.prefill_frames=24", "--train.train_ratio=4"]
    assert main(["train", *WALKER, *quick, *sizes, "--env.vector=true", f"--logdir={run}"]) == 0
    assert load(run, "cpu").config.world_model.vector_dim == 24
    episodes = list(EpisodeStore(run / "episodes").load_all())
    assert episodes[0].vector.shape == (11, 24)
    assert main(["export", f"--logdir={run}", f"--out={file}"]) == 0
    assert main(["evaluate", f"--agent={file}", "--episodes=1"]) == 0
    assert main(["record", f"--agent={file}", "--dream", f"--out={tmp_path / 'dream.mp4'}"]) == 0
    assert main(["collect", f"--agent={file}", "--episodes=2", f"--out={data}"]) == 0
    assert open_dataset(str(data)).vector_dim == 24
    offline = ["train", f"--offline={data}", "--preset=debug", "--train.offline_updates=2", *quick]
    assert main([*offline, f"--logdir={tmp_path / 'offline'}"]) == 0
    line = refused(capsys, *offline, "--env.vector=false", f"--logdir={tmp_path / 'other'}")
    assert line.startswith("env.vector: got False, expected True as in the episodes of data sha256:")
    line = refused(capsys, "train", f"--from={file}", "--task=cartpole_swingup", f"--logdir={tmp_path / 'other'}")
    assert line == "world_model.vector_dim: got 24, expected 5, the numbers of cartpole_swingup"
    line = refused(capsys, "train", *WALKER, "--env.vector=false", f"--from={file}", f"--logdir={tmp_path / 'other'}")
    assert "with vectors of 24 numbers, expected 6 continuous action dimensions and frames of 64 pixels as in" in line
    assert not (tmp_path / "other").exists()


def test_an_agent_of_frames_alone_does_not_play_where_vectors_come_beside_them(tmp_path, capsys):
    beside = Dict(image=image_space(16, 16, 3), pose=Box(-1, 1, (3,), np.float32))
    try:
        gymnasium.register("Alone-v0", World)
        gymnasium.register("Beside-v0", World, kwargs={"observation_space": beside})
        train(tmp_path, "gym:Alone-v0", env__vector=None)
        line = refused(capsys, "evaluate", f"--logdir={tmp_path}", "--task=gym:Beside-v0", "--episodes=1")
        expected = "expected frames alone as in gym:Alone-v0"
        assert line == f"task: got gym:Beside-v0 with 3 numbers beside the frame, {expected}"
        assert not list(tmp_path.glob("evaluation*"))
    finally:
        for name in ("Alone-v0", "Beside-v0"):
            gymnasium.registry.pop(name, None)
