"""Your own environment, with frames and three actions: register it, train an agent for a minute, evaluate it.

python examples/own_environment.py [env_frames]
"""

import sys
from pathlib import Path

import gymnasium
import numpy as np

from agent import Trainer, make_config
from agent.evaluation import evaluate, random_evaluation


class Lamps(gymnasium.Env):
    """Three lamps, one of them lit: pressing its button is rewarded with 1, and a random lamp lights up next."""

    observation_space = gymnasium.spaces.Box(0, 255, (48, 48, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.light(), {}

    def step(self, button):
        reward = float(button == self.lit)
        return self.light(), reward, False, False, {}

    def light(self):
        self.lit = self.np_random.integers(3)
        frame = np.zeros((48, 48, 3), np.uint8)
        frame[:, 16 * self.lit : 16 * self.lit + 16] = (255, 220, 80)
        return frame


gymnasium.register("Lamps-v0", Lamps, max_episode_steps=10)

if __name__ == "__main__":  # a toy task with a toy model: use the preset cpu or gpu for real tasks
    rates = {"optimizer.model_lr": 3e-3, "optimizer.actor_lr": 1e-3, "optimizer.critic_lr": 3e-3}
    behavior = {"behavior.gamma": 0.9, "behavior.entropy": 0.03}  # with less it may learn only two of the lamps
    loop = {"env.num_envs": 1, "replay.batch_size": 8, "train.train_ratio": 128, "train.eval_every": 1000}
    frames = {"env_frames": int(sys.argv[1]) if len(sys.argv) > 1 else 500}
    trainer = Trainer(make_config("debug", "gym:Lamps-v0", rates | behavior | loop | frames), Path("runs/lamps"))
    trainer.run()
    learned, chance = evaluate(trainer.agent, 10), random_evaluation(trainer.config, 10)
    print(f"agent {learned.mean:.1f}, chance {chance.mean:.1f} of 10")
