"""A planner of your own in the world model of a run: random shooting, the simplest one there is.

python examples/random_shooting.py runs/demo
"""

import sys

import torch

from agent import load
from agent.learning.frames import to_frames
from envs import make_env


def shoot(agent, state, candidates=256, horizon=10):
    """Return the first action [1, A] of the best of many random action sequences."""
    actions = 2 * torch.rand(candidates, horizon, agent.action_dim) - 1
    starts, gamma = state.map(lambda x: x.expand(candidates, *x.shape[1:])), agent.config.behavior.gamma
    dreams = agent.model.rollout(starts, actions, value=agent.actor_critic.critic.value, frames=False)
    discounts = gamma ** torch.arange(1, horizon + 1)
    returns = (discounts / gamma * dreams.rewards).sum(1) + discounts[-1] * dreams.values[:, -1]
    return actions[returns.argmax(), :1]


@torch.no_grad()
def play(agent, env, seed=0):
    """Return the sum of rewards of one episode."""
    memory, (image, _), total, is_over, is_first = agent.initial_state(1), env.reset(seed=seed), 0.0, False, True
    while not is_over:
        frames = to_frames(torch.from_numpy(image.copy())[None])
        state, memory = agent.model.observe_step(memory, frames, torch.tensor([is_first]))
        action = shoot(agent, state)
        memory, is_first = agent.model.remember(memory, state, action), False  # what the action does to the carry
        image, reward, is_terminal, is_truncated, _ = env.step(action[0].numpy())
        total, is_over = total + float(reward), is_terminal or is_truncated
    return total


if __name__ == "__main__":
    agent = load(sys.argv[1], device="cpu")
    env = make_env(agent.config.task, **agent.config.env.options())
    print(f"{agent.config.task}: return {play(agent, env):.1f} by random shooting in its world model")
