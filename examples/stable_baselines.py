"""AIME as an algorithm of Stable-Baselines3: learn with its callbacks, keep the best model, load and evaluate it.

python examples/stable_baselines.py                                     # minutes: learns to reach the target
python examples/stable_baselines.py --preset debug --timesteps 200      # seconds: a toy model, to check that it runs
"""

import argparse
import tempfile

from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from agent import AIME
from envs import make_env


def main() -> None:
    """Train on "reaching", a task without a simulator, and print the scores of the best model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=2000, help="decisions to learn for (default: 2000)")
    parser.add_argument("--preset", default="cpu", help="cpu, gpu, reference or debug (default: cpu)")
    given = parser.parse_args()

    model = AIME("reaching", preset=given.preset, seed=0, verbose=1, threads=1)
    held_out = Monitor(make_env("reaching", seed=10_000))
    with tempfile.TemporaryDirectory() as folder:
        every = max(100, given.timesteps // 4) // model.n_envs  # eval_freq counts calls, each of n_envs timesteps
        callback = EvalCallback(held_out, eval_freq=every, n_eval_episodes=3, best_model_save_path=folder)
        model.learn(given.timesteps, callback)
        best = AIME.load(f"{folder}/best_model")
    mean, std = evaluate_policy(best, held_out, n_eval_episodes=5)
    print(f"best model: {mean:.1f} +/- {std:.1f} over 5 episodes, after {best.num_timesteps} timesteps")
    print(f"{model.agent.updates} updates in {model.num_timesteps} timesteps")


if __name__ == "__main__":
    main()
