"""Small models and environments for the tests of agent.stable_baselines.aime."""

from contextlib import contextmanager

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.monitor import Monitor

from agent import AIME
from envs.counting import CountingEnv, decode_frame


class Scripted(gymnasium.Env):
    """CountingEnv under other actions, which it keeps as [(episode, step, action), ...]."""

    def __init__(self, action_space, worker=0, length=5, is_terminating=True):
        self._env = CountingEnv(worker=worker, length=length, is_terminating=is_terminating)
        self.observation_space, self.action_space = self._env.observation_space, action_space
        self.taken = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._image, info = self._env.reset(seed=seed)
        return self._image, info

    def step(self, action):
        assert self.action_space.contains(action if isinstance(self.action_space, Box) else int(action))
        _, episode, step = decode_frame(self._image)
        self.taken.append((int(episode), int(step), action))
        self._image, *rest = self._env.step(np.zeros(2, np.float32))
        return self._image, *rest


def counting(**options):
    return Monitor(CountingEnv(**options))


def model_of(env="counting", seed=1, **settings):
    return AIME(env, preset="debug", seed=seed, device="cpu", **settings)


def rows_of(model):
    """Everything in the replay, oldest first, as one chunk of arrays."""
    replay = model._rollout.replay
    return {name: field[0].numpy() for name, field in replay.sample(1, len(replay)).fields().items()}


def weights(agent):
    return [*agent.model.state_dict().values(), *agent.actor_critic.state_dict().values()]


@contextmanager
def registered_choices():
    """The task "gym:Choices-v0" with three choices, and the list of the environments that were made of it."""
    made = []

    def make():
        made.append(Scripted(Discrete(3)))
        return made[-1]

    gymnasium.register("Choices-v0", make)
    try:
        yield made
    finally:
        del gymnasium.registry["Choices-v0"]
