"""Episodes that never end: learned from while they run, cut off where they have to be, and said so."""

import json

import numpy as np
import pytest

from agent import AIME, Trainer, load, make_config
from agent.evaluation.episodes import evaluate
from agent.run_folder.checkpoint import load_newest
from envs import Driver, make_env, make_vector_env
from envs.counting import decode_frame
from envs.driver import episode_starts
from envs.pixels import IS_CUT, EpisodeStart
from replay import EpisodeStore, ReplayBuffer
from replay.rows import join
from run_agent import main
from tests.agent.training.endless import TASK, Endless
from tests.agent.training.test_exact_resume import assert_same_run
from tests.agent.training.test_trainer import SpyAgent

SETTINGS = {"env_frames": 110, "replay.prefill_frames": 40, "env.num_envs": 2, "train.video_frames": 0}
SETTINGS |= {"train.eval_every": 1000, "env.max_episode_frames": 30}


class NotingTrainer(Trainer):
    """Keeps its notes, those of health aside."""

    def __init__(self, *arguments, **options):
        self.notes = []
        super().__init__(*arguments, **options)

    def note(self, line):
        if not line.startswith("update "):
            self.notes.append(line)
        super().note(line)


def train(logdir, task=TASK, resume=False, **changes):
    trainer = NotingTrainer(make_config("debug", task, SETTINGS | changes), logdir, resume=resume, quiet=True)
    trainer.run()
    return trainer


# ---------------------------------------------------------------- environments


@pytest.mark.parametrize("repeat", [1, 3])
def test_an_environment_ends_its_episode_at_max_steps(repeat):
    env = make_env("counting", length=1000, action_repeat=repeat)
    env.max_steps = 4
    for _ in range(2):
        env.reset()
        ends = [env.step(np.zeros(2, np.float32))[2:] for _ in range(4)]
        assert ends == [(False, False, {})] * 3 + [(False, True, {IS_CUT: True})]
        with pytest.raises(Exception, match="needs a reset"):
            env.step(np.zeros(2, np.float32))


def test_an_end_of_its_own_at_the_bound_is_no_cut():
    for is_terminating in (True, False):
        env = make_env("counting", length=4, is_terminating=is_terminating)
        env.max_steps = 4
        env.reset()
        ends = [env.step(np.zeros(2, np.float32))[2:] for _ in range(4)]
        assert ends[-1] == (is_terminating, not is_terminating, {})


def test_an_environment_begun_in_the_middle_ends_where_it_would_have():
    env = make_env("counting", length=1000)
    env.max_steps = 6
    env.begin_at(EpisodeStart(2, np.zeros((4, 2), np.float32)))
    env.reset()
    assert [env.step(np.zeros(2, np.float32))[3] for _ in range(2)] == [False, True]


@pytest.mark.parametrize("num_envs", [1, 2])
def test_the_driver_names_them_and_goes_on_with_new_episodes(num_envs):
    def make(starts=None):
        envs = make_vector_env("counting", num_envs, starts=starts, length=1000)
        envs.set_attr("max_steps", 3)
        return envs

    def act(step):
        return np.zeros((num_envs, 2), np.float32)

    with Driver(make()) as driver:
        steps = [(driver.tick(act), driver.at_bound) for _ in range(6)]
        state = driver.state_dict()
    for t, (step, at_bound) in enumerate(steps):
        assert at_bound == (tuple(range(num_envs)) if t == 3 else ())
        assert step.is_last.tolist() == [t == 3] * num_envs
        assert not step.is_terminal.any()
        assert decode_frame(step.image)[2].tolist() == [t % 4] * num_envs
    with Driver(make(episode_starts(state)), state=state) as driver:  # after a restart
        later = [(driver.tick(act).is_last.all(), driver.at_bound) for _ in range(2)]
    assert later == [(False, ()), (True, tuple(range(num_envs)))]


# ---------------------------------------------------------------- training


def test_the_first_update_sees_rows_of_a_running_episode(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.training.trainer.Agent", SpyAgent)
    trainer = train(tmp_path, **{"env.max_episode_frames": 100, "env_frames": 60})
    chunks = trainer.agent.chunks
    assert len(chunks) > 0
    assert trainer.replay.num_episodes == 0  # nothing but running episodes: every row is of one
    for chunk in chunks:
        worker, episode, step = decode_frame(chunk.image.numpy())
        assert not episode.any()
        assert (np.diff(step) == 1).all()
        assert (np.diff(worker) == 0).all()
        assert step.max() <= 31  # the rows that there were
        assert not chunk.is_last.any()
    assert trainer.notes == ["evaluation: 1 of 1 episodes did not end: cut off after 100 env_frames "
                               "(env.max_episode_frames) (shown once)"]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "steps", "reason"),
    [
        ({}, 30, "env.max_episode_frames 30"),
        ({"replay.capacity_steps": 50}, 24, "its share of replay.capacity_steps, 25 rows"),
    ],
)
def test_episodes_are_cut_as_truncated_and_it_is_said_once(tmp_path, changes, steps, reason):
    trainer = train(tmp_path, **changes)
    assert trainer.agent.updates > 0
    episodes = list(EpisodeStore(tmp_path / "episodes").load_all())
    assert {len(episode.reward) for episode in episodes} == {steps + 1}
    assert not any(episode.is_terminal.any() for episode in episodes)
    assert all(decode_frame(episode.image)[2].tolist() == list(range(steps + 1)) for episode in episodes)
    line = f"an episode was truncated after {steps} agent_steps: {reason} (shown once)"
    assert trainer.notes.count(line) == 1
    assert len(trainer.replay) + trainer.replay.num_staged <= trainer.replay.capacity


def test_a_run_of_cut_episodes_resumes_bit_for_bit(tmp_path):
    """Stops in the middle of episodes that the replay's share cuts, and where they are cut."""
    changes = {"replay.capacity_steps": 50, "train.eval_episodes": 1, "train.keep_checkpoints": 1}
    train(tmp_path / "straight", **changes)
    for frames in (46, 50, 80, 110):
        config = make_config("debug", TASK, SETTINGS | changes)
        trainer = Trainer(config, tmp_path / "stopped", resume=frames > 46, quiet=True)
        collect = trainer._collect

        def collect_and_stop(trainer=trainer, collect=collect, frames=frames):
            collect()
            if trainer.env_frames >= frames:
                trainer.stop_reason = "test"

        if frames < 110:
            trainer._collect = collect_and_stop
        trainer.run()
    kept = [load_newest(tmp_path / name / "checkpoints")[0]["replay"] for name in ("straight", "stopped")]
    assert kept[0]["rows"] == kept[1]["rows"] > 0
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


# ---------------------------------------------------------------- evaluation and videos


def test_evaluate_and_record_end_and_say_so(tmp_path, capsys):
    train(tmp_path, env_frames=50)
    agent = load(tmp_path)
    found = evaluate(agent, 2)
    assert (found.is_cut, found.lengths) == ((True, True), (30, 30))
    line = "2 of 2 episodes did not end: cut off after 30 env_frames (env.max_episode_frames)"
    assert main(["evaluate", "--logdir", str(tmp_path), "--episodes", "2"]) == 0
    assert capsys.readouterr().out.count(line) == 3  # each policy
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["deterministic"]["is_cut"] == [True, True]
    videos = {
        (): "1 of 1 episodes did not end: cut off after 30 env_frames (env.max_episode_frames)",
        ("--dream",): "the episode did not end: cut off after 30 agent_steps",
    }
    for kind, line in videos.items():
        assert main(["record", "--logdir", str(tmp_path), "--out", str(tmp_path / "a.gif"), *kind, "--overwrite"]) == 0
        assert line in capsys.readouterr().out.splitlines()


def test_episodes_that_end_are_not_marked(tmp_path, capsys):
    assert train(tmp_path, "counting", env_frames=60).notes == []
    assert main(["evaluate", "--logdir", str(tmp_path), "--episodes", "2"]) == 0
    assert "did not end" not in capsys.readouterr().out
    assert json.loads((tmp_path / "evaluation.json").read_text())["sample"]["is_cut"] == [False, False]


# ---------------------------------------------------------------- Stable-Baselines3


def test_aime_learns_in_an_environment_without_ends(caplog):
    model = AIME(Endless(), preset="debug", seed=1, device="cpu").learn(120)
    assert model.agent.updates > 0
    assert caplog.text == ""


def test_a_long_episode_of_a_vec_env_is_kept_as_several(caplog, monkeypatch):
    """It is not reset: the frame where one part ends is the first of the next, and no reward is lost between."""
    kept = []

    class Keeping(ReplayBuffer):
        def add(self, step, envs=None):
            super().add(step, envs)
            kept.append(step)

    monkeypatch.setattr("agent.stable_baselines.rollout.ReplayBuffer", Keeping)
    settings = {"capacity_steps": 20, "prefill_frames": 20}
    model = AIME(Endless(), preset="debug", seed=1, device="cpu", replay=settings).learn(50)
    rows = join(kept, np.concatenate)
    frame = decode_frame(rows.image)[2]
    assert len(frame) == 52
    np.testing.assert_array_equal(np.flatnonzero(rows.is_first), [0, 20, 40])
    np.testing.assert_array_equal(np.flatnonzero(rows.is_last), [19, 39])
    np.testing.assert_array_equal(frame, [*range(20), *range(19, 39), *range(38, 50)])
    np.testing.assert_array_equal(rows.reward, np.where(rows.is_first, 0, frame))
    assert not rows.is_terminal.any()
    assert model._rollout.replay.num_running.tolist() == [12]
    assert caplog.text.count("episodes in the replay are truncated at their share of replay.cap") == 1


# ---------------------------------------------------------------- no update


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"replay.prefill_frames": 111}, r"env_frames: got 110, expected at least replay\.prefill_frames \(111\)"),
        ({"train.train_ratio": 0.01}, r"train\.train_ratio: got 0\.01, expected at least one update .*env_frames"),
        ({"replay.capacity_gb": 5e-5}, r"replay\.capacity_gb: got 5e-05, room for 4 rows, .*batch_length \(8\)"),
        ({"replay.capacity_steps": 15, "env.num_envs": 8}, r"replay\.capacity_steps: got room for 15 rows, .*8 env"),
    ],
)
def test_what_can_never_learn_is_refused_before_the_start(tmp_path, changes, expected):
    with pytest.raises(ValueError, match=f"^{expected}") as caught:
        train(tmp_path / "run", "counting", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_the_command_refuses_with_status_2_and_one_line(tmp_path, capsys):
    arguments = ["--task", "counting", "--preset", "debug", "--env_frames", "50", "--logdir", str(tmp_path / "run")]
    assert main(["train", *arguments]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "run_agent.py: error: env_frames: got 50, expected at least replay.prefill_frames (100): all of them would be "
        "random actions, and no update would follow"
    ]
    assert not (tmp_path / "run").exists()


def test_a_prefill_before_final_updates_alone_is_taken(tmp_path):
    changes = {"env_frames": 40, "train.final_updates": 3, "env.num_envs": 1}
    trainer = train(tmp_path, "counting", **changes)
    assert (trainer.agent.updates, trainer.notes) == (3, [])


def test_a_run_without_an_update_ends_with_a_line(tmp_path):
    changes = {"env_frames": 40, "replay.prefill_frames": 10, "replay.batch_length": 40, "train.train_ratio": 64}
    trainer = train(tmp_path, **changes)
    expected = "no update was made: the replay holds no sequence of replay.batch_length (40) rows"
    assert [line for line in trainer.notes if "no update" in line] == [expected]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "no update was made: 20 env_frames were played, but replay.prefill_frames is 100"),
        (
            {"replay.prefill_frames": 10, "train.train_ratio": 0.01},
            "no update was made: with train.train_ratio 0.01 none is due in 20 agent_steps",
        ),
    ],
)
def test_learn_without_an_update_says_so_once(caplog, settings, expected):
    model = AIME(Endless(), preset="debug", seed=1, device="cpu", overrides=settings).learn(20)
    model.learn(20, reset_num_timesteps=False)
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == expected
    assert len(told) == 2
