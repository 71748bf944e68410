"""Collection of experience by players elsewhere, who send whole episodes to the learner's replay."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from agent.config.settings import Config
from agent.learning.agent import Agent
from agent.learning.errors import NotFinite
from agent.run_folder.storage import episode_bound, run_shapes
from agent.training.collector import make_driver
from agent.training.due_work import updates_per_step
from agent.training.player import acting_weights
from agent.training.ray_players import RayPlayer, RayPlayers
from envs.driver import EnvironmentFailure
from envs.wording import one_line
from replay import ReplayBuffer, episode_file
from replay.rows import Episode, bytes_of, check_episode, cut_off

_WAIT_SECONDS = 1.0  # for an episode, before the trainer looks whether it should stop
_SILENCE_SECONDS = 60.0  # without an episode, after which the user is told
_MOST_LOSSES = 3  # of players in a row without an episode in between, after each of them was lost once


class Arrived(NamedTuple):
    """An episode that waits for its turn, and what its file says about it."""

    episode: Episode
    facts: dict[str, int]  # collector, number, updates


class RemoteCollector:
    """A `Collector` whose environments are elsewhere: `env.collectors` players, each with `env.num_envs` of them.

    Episodes arrive whole, and `collect` adds one of them to the replay; the updates that its rows make due come before
    the next one. A player has at most one delivery that has not been fetched. So a learner that is behind lets players
    wait, and without an episode there is no update: train ratio and budget hold as with environments here.

    *Age.* The lag of an episode is the number of updates since the weights of its first action. Whatever is on its way
    already may bring its updates before an episode that begins now; if the oldest one would exceed `env.max_lag` by
    that, a player waits. An episode that is older all the same is learned from, as are all old rows of a replay, and
    the user is told once.

    *Numbers.* Each player numbers its episodes, from 0 at the beginning of the run. What arrives must have the next
    number, be undamaged and fit the task. Otherwise, or if the player is lost, all of its delivery is dropped and
    another player begins at that number, so that none is missing and none comes twice. Metadata of the stored files
    hold collector, number and updates.

    Args:
        config: settings of the run.
        state: a `state_dict`, of this class or of Collector, from which to continue; episodes in progress begin anew.
        note: gets lines for the user.

    Raises:
        ValueError: no cluster to play on, or an environment that cannot be made.
    """

    def __init__(self, config: Config, state: dict[str, Any] | None, note: Callable[[str], None]) -> None:
        assert config.env.collectors is not None
        self.config, self._note = config, note
        self.env_frames = self.agent_steps = 0
        self.cut = self.restarts = 0  # environments that the last call restarted, and restarts so far
        self.can_sample = self.at_bound = False
        self.about: dict[str, float] = {}
        one = make_driver(replace(config, env=replace(config.env, num_envs=1)))
        self.action_dim, self.is_discrete, self.vector_dim = one.action_dim, one.is_discrete, one.vector_dim
        one.close()
        sized = config.with_vector(self.vector_dim)
        self._shapes, self.bound = run_shapes(sized, self.action_dim), episode_bound(sized, self.action_dim)
        self._cluster = RayPlayers(config)
        self._count = config.env.collectors
        self._players: list[RayPlayer] = []  # none before the first `collect`
        self._playing: dict[int, int] = {}  # players -> updates of the weights that they began with
        self._arrived: deque[Arrived] = deque()
        numbers = [] if state is None else list(state.get("numbers", ()))
        self.numbers = numbers + [0] * (self._count - len(numbers))  # of each player: its next episode in the replay
        self._next = list(self.numbers)  # and its next one to arrive
        self._weights, self._updates = self._cluster.share({}), 0
        self._episodes = self._decisions = 0  # of this session
        self._losses, self._heard, self._told = 0, 0.0, set[str]()

    # ---------------------------------------------------------------- what the trainer uses

    def collect(self, agent: Agent, replay: ReplayBuffer) -> list[float]:
        """Add the next episode to the replay and return its return; nothing if none comes within a second.

        NotFinite if a player's actions are not finite, EnvironmentFailure if players are lost again and again.
        """
        self.cut, self.about, self.at_bound = 0, {}, False
        if not self._players:
            self._players = [self._cluster.start(index, self._next[index]) for index in range(self._count)]
            self._heard = time.monotonic()
        self.share(agent)
        if not self._arrived:
            self._let_play(agent.updates)
            self._fetch(agent.updates)
        if not self._arrived:
            return []
        replay.finish_partial()  # what was running when the run went on without environments here
        return [self._add(self._arrived.popleft(), agent.updates, replay)]

    def share(self, agent: Agent) -> None:
        """Send the weights to the players after the first update, then every `env.weights_every` updates."""
        if agent.updates == 0 or 0 < self._updates > agent.updates - self.config.env.weights_every:
            return
        self._weights, self._updates = self._cluster.share(acting_weights(agent)), agent.updates
        for index in self._playing:
            self._players[index].receive(self._weights, self._updates)

    def close(self) -> None:
        """End all players; a second call does nothing."""
        self._cluster.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, and the number of every player's next episode."""
        return {"env_frames": self.env_frames, "agent_steps": self.agent_steps, "numbers": list(self.numbers)}

    def load_state_dict(self, state: dict[str, Any], _: Agent) -> None:
        """Restore the counters of a `state_dict`, whose numbers the constructor has restored already."""
        self.env_frames, self.agent_steps = state["env_frames"], state["agent_steps"]

    # ---------------------------------------------------------------- players

    def _let_play(self, updates: int) -> None:
        """Let players without work begin, those with the fewest episodes first, as far as `env.max_lag` allows."""
        for index in sorted(set(range(self._count)) - set(self._playing), key=self._next.__getitem__):
            if not self._may_begin(updates):
                self._tell(
                    f"{self._count - len(self._playing)} of {self._count} collectors wait: {self._why_waiting()}",
                    "waiting",
                )
                return
            self._players[index].play(self._weights, self._updates)
            self._playing[index] = self._updates

    def _may_begin(self, updates: int) -> bool:
        if not self._playing and not self._arrived:
            return True
        on_their_way = len(self._arrived) + self.config.env.num_envs * (len(self._playing) + 1)
        oldest = min(self._playing.values(), default=updates)
        return updates - oldest + on_their_way * self._updates_per_episode <= self.config.env.max_lag

    @property
    def _updates_per_episode(self) -> float:
        return updates_per_step(self.config) * self._decisions / max(1, self._episodes)

    def _why_waiting(self) -> str:
        return f"an episode brings {self._updates_per_episode:,.0f} updates, env.max_lag is {self.config.env.max_lag:,}"

    def _fetch(self, updates: int) -> None:
        """Fetch the episodes of the first player that has finished some, and let it begin again."""
        index = self._cluster.first_ready({i: self._players[i] for i in self._playing}, _WAIT_SECONDS)
        if index is None:
            if time.monotonic() > self._heard + _SILENCE_SECONDS:
                self._tell(f"no episode for {_SILENCE_SECONDS:.0f} s: is there room in the cluster for the collectors?")
            return
        del self._playing[index]
        try:
            delivery = self._players[index].take()
            expected = range(self._next[index], self._next[index] + len(delivery.files))
            arrived = [self._read(data, index, n) for data, n in zip(delivery.files, expected, strict=True)]
        except NotFinite:
            raise
        except Exception as error:  # of the player, of its environments, of the way, of the data
            self._replace(index, one_line(error))
            return
        self._arrived.extend(arrived)
        self._next[index] = expected.stop
        self._losses, self._heard = 0, time.monotonic()
        self._count_restarts(delivery.restarts)
        self._let_play(updates)

    def _read(self, data: bytes, index: int, number: int) -> Arrived:
        """Return the episode of a file. ValueError if it is damaged, of another task, or not the one of this number."""
        episode, facts = episode_file.decode(data, (self.bound.steps + 1) * bytes_of(self._shapes))
        check_episode(episode, self._shapes)
        if (facts["collector"], facts["number"]) != (index, number):
            got = f"got number {facts['number']} of collector {facts['collector']}"
            raise ValueError(f"episode: {got}, expected number {number} of collector {index}")
        return Arrived(episode, facts)

    def _replace(self, index: int, reason: str) -> None:
        """Start another player in place of a lost one; EnvironmentFailure after too many of them."""
        self._losses += 1
        line = f"collector {index} was lost: {reason}"
        if self._losses > self._count + _MOST_LOSSES:
            raise EnvironmentFailure(f"{line}; {self._losses} were lost without an episode in between")
        self._tell(f"{line}; another one begins at its episode {self._next[index]:,}")
        self._players[index].close()
        self._players[index] = self._cluster.start(index, self._next[index])
        self._count_restarts(self.config.env.num_envs)

    def _count_restarts(self, count: int) -> None:
        self.cut, self.restarts = self.cut + count, self.restarts + count

    def _tell(self, line: str, about: str | None = None) -> None:
        """Show a line unless it, or one about the same, was shown before."""
        if (key := line if about is None else about) not in self._told:
            self._told.add(key)
            self._note(line)

    # ---------------------------------------------------------------- episodes

    def _add(self, arrived: Arrived, updates: int, replay: ReplayBuffer) -> float:
        """Add an episode to the replay, as much of it as fits the budget, and count it; return its return."""
        facts, episode = arrived.facts, arrived.episode
        self.at_bound = len(episode.reward) > self.bound.steps and not episode.is_terminal[-1]
        left = math.ceil((self.config.env_frames - self.env_frames) / self.config.env.action_repeat)
        if len(episode.reward) > left + 1:
            episode = cut_off(episode.map(lambda values: values[: left + 1]))
        replay.add_episode(episode, facts)
        self.can_sample = replay.can_sample(self.config.replay.sample_length)
        self.numbers[facts["collector"]] += 1
        decisions = len(episode.reward) - 1
        self._episodes, self._decisions = self._episodes + 1, self._decisions + decisions
        self.agent_steps += decisions
        self.env_frames += decisions * self.config.env.action_repeat
        if facts["updates"] > 0:  # otherwise it began with random actions
            lag = updates - facts["updates"]
            self.about = {"episode_lag": lag}
            if lag > self.config.env.max_lag:
                late = f"an episode arrived {lag:,} updates after the weights that it began with"
                self._tell(f"{late}, more than env.max_lag {self.config.env.max_lag:,} (shown once)", "late")
        return float(episode.reward.sum())
