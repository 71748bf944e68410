"""The whole loop learns, all pillars on: replay, model, dream, behaviour. benchmarks/reaching.py is the long form."""

from agent import Trainer, make_config
from agent.evaluation import evaluate, random_evaluation


def test_a_few_hundred_updates_beat_chance_on_reaching(tmp_path):
    """Random actions get a tenth of the expert's return, which is the optimum."""
    overrides = {
        "threads": 1,
        "env_frames": 900,
        "train.eval_every": 10_000,
        "train.eval_episodes": 1,
        "train.video_frames": 0,
    }
    trainer = Trainer(make_config("cpu", "reaching", overrides), tmp_path / "run", quiet=True)
    trainer.run()
    assert trainer.agent.updates >= 400
    found = evaluate(trainer.agent, 10, seed=500_000)
    chance = random_evaluation(trainer.config, 10, seed=500_000)
    assert found.mean > 2 * chance.mean
