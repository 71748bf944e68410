"""Collectors elsewhere: numbers of episodes, lost players, age, waiting, budget and ratio, resuming, bad input."""

import json
import random
import socket
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from agent import Agent, Trainer, load, make_config
from agent.learning.errors import NotFinite
from agent.run_folder.weights import for_acting, weights_of
from agent.training.player import Delivery, Player, acting_weights
from agent.training.ranks import Ranks
from envs.counting import decode_frame
from envs.driver import EnvironmentFailure
from replay import EpisodeStore, episode_file
from run_agent import main
from tests.agent.learning.small_agent import make_agent, make_chunk
from tests.agent.training.local_players import LocalPlayers, Lost, keep, oldest

# Episodes of counting have 10 decisions; 2 updates per 5 of them, after 4 episodes.
SETTINGS = {"env_frames": 117, "env.num_envs": 1, "env.collectors": 3, "env.weights_every": 6}
SETTINGS |= {"replay.prefill_frames": 40, "train.train_ratio": 6.4, "train.video_frames": 0, "train.log_every": 1}
SETTINGS |= {"replay.capacity_steps": 1000}


class IdleAgent(Agent):
    """Learns from one chunk alone."""

    metrics = None

    def update(self, chunk, behavior=True):
        if self.metrics is None:
            self.metrics = super().update(chunk, behavior)
        else:
            self.updates += 1
        return self.metrics


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train with players in this process; returns the trainer, whose cluster is in `collector._cluster`."""

    monkeypatch.setattr("agent.training.trainer.Agent", IdleAgent)

    def run(resume=False, fate=keep, order=oldest, do=lambda trainer: trainer.run(), **overrides):
        players = partial(LocalPlayers, fate=fate, order=order)
        monkeypatch.setattr("agent.training.remote_collector.RayPlayers", players)
        config = make_config("debug", "counting", SETTINGS | {k.replace("__", "."): v for k, v in overrides.items()})
        trainer = Trainer(config, tmp_path / "run", resume=resume, quiet=True)
        trainer.started = 0.0
        do(trainer)
        return trainer

    return run


def stored(trainer) -> list[dict[str, int]]:
    """The metadata of the episodes on disk, in order."""
    store = EpisodeStore(trainer.logdir / "episodes")
    return [store.load_metadata(path) for path in store.paths()]


def rows_on_disk(trainer) -> list[int]:
    return [entry.length for entry in EpisodeStore(trainer.logdir / "episodes").entries()]


def check_numbers(trainer) -> None:
    """Every collector's episodes are there, each once, in order."""
    found = stored(trainer)
    for index, count in enumerate(trainer.collector.numbers):
        assert [facts["number"] for facts in found if facts["collector"] == index] == list(range(count))
    assert sum(trainer.collector.numbers) == len(found)
    assert sum(rows_on_disk(trainer)) - len(found) == trainer.collector.agent_steps


def lines(trainer) -> list[dict[str, float]]:
    return [json.loads(line) for line in (trainer.logdir / "metrics.jsonl").read_text().splitlines()]


def test_budget_ratio_rows_and_numbers(train):
    trainer = train()
    assert trainer.env_frames == trainer.collector.agent_steps == 117  # not 120: the last episode is cut
    assert rows_on_disk(trainer) == [11] * 11 + [8]
    assert trainer.agent.updates == (117 - 30) * 2 // 5  # the episode that ends the prefill counts
    assert trainer.due.updates == 0
    assert load(trainer.logdir).updates == trainer.agent.updates
    assert max(trainer.collector.numbers) - min(trainer.collector.numbers) <= 1
    check_numbers(trainer)
    returns = [line["train_return"] for line in lines(trainer) if "train_return" in line]
    assert returns == [55.0] * 11 + [28.0]  # 1 + ... + 10, and 1 + ... + 7
    for episode in EpisodeStore(trainer.logdir / "episodes").load_all():
        _, _, step = decode_frame(episode.image)
        assert step.tolist() == episode.reward.tolist() == list(range(len(step)))
        assert not episode.is_terminal.any()
        assert not episode.action[-1].any()
        assert (episode.action[:-1] != 0).any()


def test_no_episode_is_lost_or_doubled_when_players_die(train):
    chance, deaths = random.Random(3), []

    def fate(player, delivery):
        if chance.random() < 0.4:
            deaths.append(player.index)
            raise Lost("killed")  # after its episode was finished, before it arrived
        return delivery

    trainer = train(fate=fate)
    assert len(deaths) >= 5
    assert trainer.env_frames == 117
    assert trainer.agent.updates == (117 - 30) * 2 // 5
    check_numbers(trainer)
    cluster = trainer.collector._cluster
    assert len(cluster.players) == 3 + len(deaths)
    assert all(player.is_closed for player in cluster.players)
    assert trainer.collector.restarts == len(deaths)
    assert [line["env_restarts"] for line in lines(trainer) if "env_restarts" in line] == list(
        range(1, len(deaths) + 1)
    )


def spoilt(kind: str):
    """A fate that spoils the third delivery: its files come again, one is missing, damaged, or of another task."""
    count, kept = [0], []

    def fate(player, delivery):
        count[0] += 1
        kept.append(delivery.files[0])
        data = bytearray(delivery.files[0])
        data[len(data) // 2] ^= 1
        episode, facts = episode_file.decode(delivery.files[0])
        files = {
            "doubled": [kept[0], *delivery.files],
            "old": [kept[0]],
            "missing": [episode_file.encode(episode, facts | {"number": facts["number"] + 1})],
            "foreign": [episode_file.encode(episode, facts | {"collector": 7})],
            "damaged": [bytes(data)],
            "wide": [episode_file.encode(episode._replace(action=np.repeat(episode.action, 2, 1)), facts)],
            "nameless": [episode_file.encode(episode, {})],
        }[kind]
        return Delivery(files, 0) if count[0] == 3 else delivery

    return fate


@pytest.mark.parametrize("kind", ["doubled", "old", "missing", "foreign", "damaged", "wide", "nameless"])
def test_what_does_not_belong_is_dropped_with_its_player(train, kind):
    told: list[str] = []

    def run(trainer):
        trainer.collector._note = told.append
        for _ in range(6):
            step(trainer)
        trainer.close()

    trainer = train(fate=spoilt(kind), do=run)
    assert sum(trainer.collector.numbers) == 5
    check_numbers(trainer)
    assert len(trainer.collector._cluster.players) == 4
    assert len(told) == 1
    assert told[0].startswith("collector 2 was lost: ")
    assert told[0].endswith("; another one begins at its episode 0")


def step(trainer) -> list[float]:
    return trainer.collector.collect(trainer.agent, trainer.replay)


def test_an_episode_is_learned_from_before_the_next_is_taken(train):
    """A learner that is behind lets players wait, and without an episode there is no update."""
    silent = [False]

    def look(trainer):
        for _ in range(8):
            trainer._tick()
        cluster, updates, taken = trainer.collector._cluster, trainer.agent.updates, sum(trainer.collector.numbers)
        assert taken == 8
        assert updates == (10 * taken - 30) * 2 // 5
        assert cluster.most_playing == 3  # each has one delivery at most
        silent[0] = True
        for _ in range(3):
            trainer._tick()
        assert (trainer.agent.updates, sum(trainer.collector.numbers)) == (updates, taken)
        assert trainer.due.is_done
        trainer.stop("enough")
        trainer.run()
        assert trainer.is_saved

    trainer = train(do=look, order=lambda players: None if silent[0] else min(players))
    check_numbers(trainer)


def test_weights_arrive_every_so_many_updates_also_within_an_episode(train):
    trainer = train(env__collectors=1)
    received = trainer.collector._cluster.players[0].received
    versions = sorted(set(received))
    assert versions[:2] == [0, 1]  # random actions end with the first update
    assert all(b - a == 6 for a, b in pairwise(versions[1:]))
    assert versions[-1] > trainer.agent.updates - 6
    assert trainer.collector._cluster.shared[0] == {}
    own = for_acting(weights_of(trainer.agent, averaged=False))
    sent = trainer.collector._cluster.shared[-1]
    assert sent.keys() == own.keys()
    assert "actor_critic.slow_critic.layers.0.weight" not in sent
    lags = [line["episode_lag"] for line in lines(trainer) if "episode_lag" in line]
    assert max(lags) <= 4 + 6  # the updates of one episode, and those between two versions


def test_the_age_of_episodes_is_bounded_by_waiting(train):
    """An episode brings 4 updates: 13 are enough for three on their way."""
    told: list[str] = []

    def run(trainer):
        trainer.collector._note = told.append
        trainer.run()

    trainer = train(env__collectors=6, env__max_lag=13, env__weights_every=1, env_frames=250, do=run)
    lags = [line["episode_lag"] for line in lines(trainer) if "episode_lag" in line]
    assert 4 <= max(lags) <= 13
    assert any("collectors wait: an episode brings 4 updates, env.max_lag is 13" in line for line in told)
    check_numbers(trainer)
    free = train(env__collectors=6, env__max_lag=1000, env__weights_every=1, env_frames=251, resume=True)
    assert max(line["episode_lag"] for line in lines(free) if "episode_lag" in line) <= 13  # still those of before


def test_an_episode_that_is_too_old_all_the_same_is_told_once_and_kept(train):
    """A resumed run does not know yet how many updates an episode brings, so all players begin at once."""
    train()
    told: list[str] = []

    def run(trainer):
        trainer.collector._note = told.append
        trainer.run()

    trainer = train(resume=True, env_frames=200, env__max_lag=3, do=run)
    late = [line for line in told if "after the weights that it began with" in line]
    text = "an episode arrived 4 updates after the weights that it began with, more than env.max_lag 3 (shown once)"
    assert late == [text]
    assert lines(trainer)[-1]["env_frames"] == 200
    check_numbers(trainer)


def test_players_act_as_the_learner_would():
    """With the learner's weights and draws, a player acts as the learner; the average plays where it is asked to."""
    for averaged in (False, True):
        learner = make_agent(optimizer__average_decay=0.9, optimizer__average_collects=averaged, env__num_envs=1)
        for _ in range(3):
            learner.update(make_chunk(2, 8))
        player = Player(learner.config, 1, 0)
        delivery = player.play({}, 0)
        assert episode_file.decode(delivery.files[0])[1] == {"collector": 1, "number": 0, "updates": 0}
        player.receive(acting_weights(learner), 3)
        player.play({}, 0)
        copy = player._agent
        assert copy.updates == 3
        for agent in (learner, copy):
            agent.seed_generators(5)
        frames = make_chunk(4, 1).image[:, 0].numpy()
        first = np.ones(4, bool)
        actions = [agent.act(frames, first, agent.initial_state(4), "collect")[0] for agent in (learner, copy)]
        np.testing.assert_array_equal(*actions)
        player._collector.close()


def test_new_weights_count_within_an_episode():
    learner = make_agent(env__num_envs=1)
    learner.update(make_chunk(2, 8))
    player = Player(learner.config, 0, 0)
    collect, rows = player._collector.collect, []

    def watched(agent, gathered):
        rows.append(agent.updates)
        if len(rows) == 5:
            player.receive(acting_weights(learner), 7)
            player.receive({}, 6)  # older ones, which come late
        return collect(agent, gathered)

    player._collector.collect = watched
    delivery = player.play({}, 0)
    assert rows == [0] * 5 + [7] * 21
    assert episode_file.decode(delivery.files[0])[1]["updates"] == 0
    delivery = player.play({}, 0)
    assert episode_file.decode(delivery.files[0])[1] == {"collector": 0, "number": 1, "updates": 7}
    player._collector.close()


def test_players_of_one_run_draw_differently_and_anew_after_a_loss():
    config = make_config("debug", "reaching", {"env.num_envs": 1})
    episodes = []
    for index, number in ((0, 0), (1, 0), (0, 1), (0, 0)):
        player = Player(config, index, number)
        episodes.append(episode_file.decode(player.play({}, 0).files[0])[0])
        player._collector.close()
    same = [[np.array_equal(a.image, b.image) for b in episodes] for a in episodes]
    assert np.array_equal(same, [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 1]])


def test_several_environments_of_a_player(train):
    trainer = train(env__collectors=1, env__num_envs=2, env_frames=60)
    check_numbers(trainer)
    assert trainer.collector.numbers == [6]


def test_a_run_resumes_with_more_or_fewer_collectors_or_without(train):
    first = train()
    assert sum(first.collector.numbers) == 12
    more = train(resume=True, env_frames=200, env__collectors=5)
    assert more.collector.numbers[0] >= first.collector.numbers[0]
    assert more.env_frames == 200
    check_numbers(more)
    fewer = train(resume=True, env_frames=250, env__collectors=1)
    assert fewer.collector.numbers[1:] == more.collector.numbers[1:]
    check_numbers(fewer)
    here = train(resume=True, env_frames=275, env__collectors=None)  # two whole episodes and three rows of another
    assert here.env_frames == 275
    assert here.replay.num_staged > 1
    again = train(resume=True, env_frames=300)
    assert again.env_frames == 300
    assert again.replay.num_staged == 0
    assert sum(rows_on_disk(again)) - len(rows_on_disk(again)) == 300
    assert [facts["number"] for facts in stored(again) if facts.get("collector") == 0][-1] == 0  # numbers begin anew


def test_a_run_stops_with_episodes_that_have_not_been_taken(train):
    """They are played once more, and the numbers stay whole."""

    def stop(trainer):
        for _ in range(5):
            trainer._tick()
        trainer.stop("enough")
        trainer.run()

    first = train(do=stop, env__num_envs=2, env__collectors=1)  # two at once
    assert len(first.collector._arrived) == 1
    check_numbers(first)
    assert first.collector.numbers == [5]
    second = train(resume=True, env__num_envs=2, env__collectors=1)
    check_numbers(second)
    assert second.env_frames == 117


def test_a_policy_that_is_not_finite_goes_back_and_failing_environments_end_the_run(train):
    def broken(player, delivery):
        if player.received[-1] > 0:
            raise NotFinite("the policy's actions are not finite")
        return delivery

    trainer = train(fate=broken)
    assert trainer.has_failed
    assert "the policy's actions are not finite" in trainer.stop_reason

    def failing(player, delivery):
        raise EnvironmentFailure("no display")

    trainer = train(fate=failing)
    assert trainer.has_failed
    assert trainer.stop_reason.endswith("was lost: no display; 7 were lost without an episode in between")
    assert trainer.is_saved


# ---------------------------------------------------------------- bad input


def refused(capsys, tmp_path, *arguments: str) -> str:
    logdir = tmp_path / "run"
    common = ["--preset", "debug", "--logdir", str(logdir)]
    assert main(["train", *common, *arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("run_agent.py: error: ")
    assert text.count("\n") == 1
    assert not logdir.exists()
    return text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--env.collectors", "0"], "env.collectors: got 0, expected at least 1"),
        (["--env.collectors", "-2"], "env.collectors: got -2, expected at least 1"),
        (["--env.collectors", "many"], "env.collectors: got 'many'"),
        (["--env.ray", "auto"], "env.ray: got 'auto' without env.collectors"),
        (["--env.collectors", "2", "--env.max_lag", "0"], "env.max_lag: got 0"),
        (["--env.collectors", "2", "--env.weights_every", "0"], "env.weights_every: got 0"),
        (["--env.collectors", "2", "--algo", "sac"], "env.collectors: got 2 with algo sac"),
        (["--env.collectors", "2", "--env.ray", "somewhere"], "env.ray: got 'somewhere', expected an address"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.setattr("envs.packages.find_spec", lambda name: name)  # Ray is not imported
    assert expected in refused(capsys, tmp_path, *arguments)


def test_no_ray_and_no_head(capsys, tmp_path, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # nobody listens there
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr("envs.packages.find_spec", lambda name: name)
        text = refused(capsys, tmp_path, "--env.collectors", "2", "--env.ray", address)
    assert f"env.ray: got '{address}', where no Ray head answers" in text
    monkeypatch.setattr("envs.packages.find_spec", lambda name: None)
    assert "env.ray: got no package ray, expected that which `pip install ray` installs" in refused(
        capsys, tmp_path, "--env.collectors", "2"
    )


def test_not_with_ranks():
    with pytest.raises(ValueError, match=r"env\.collectors: got 3 on 2 ranks, expected null"):
        Ranks(0, 2).share(make_config("debug", "counting", {"env.collectors": 3}))


def test_not_in_verify_resume(capsys):
    assert main(["verify-resume", "--preset", "debug", "--env.collectors", "2"]) == 2
    assert "env.collectors: got 2, expected null" in capsys.readouterr().err


def test_forged_numbers_are_refused(train, tmp_path):
    trainer = train()
    payload = trainer.state_dict()
    from agent.run_folder.contents import check_payload

    check_payload(payload)
    payload["collector"]["numbers"] = [1, -1]
    with pytest.raises(ValueError, match=r"collector.numbers\[1\]: got -1"):
        check_payload(payload)
    del payload["collector"]["numbers"]
    with pytest.raises(ValueError, match="collector"):
        check_payload(payload)
    assert torch.is_tensor(payload["replay"]["episodes"]["number"])
