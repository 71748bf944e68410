"""The evaluations of a run while it trains: deterministic episodes with fixed seeds, and a short video of the first."""

from typing import TYPE_CHECKING

import numpy as np

from agent.evaluation import cut_line, evaluate
from agent.recording import record
from agent.recovery import explain
from envs.driver import EnvironmentFailure

if TYPE_CHECKING:
    from agent.trainer import Trainer

EVALUATION_SEED = 10_000  # evaluation episodes start here, far from those of training


def evaluate_run(run: "Trainer") -> None:
    """Score the average of a run's weights, once at a frame; Stopped where the run is to end.

    An environment that fails costs the evaluation, a disk that takes no video the video: neither is worth a run.
    """
    if run.evaluated_at == run.env_frames:
        return
    train, seed = run.config.train, run.config.seed + EVALUATION_SEED
    run.display.busy(f"evaluating {train.eval_episodes} episodes")
    frames: list[np.ndarray] = []
    try:
        with run.agent.average.swapped():
            result = evaluate(run.agent, train.eval_episodes, seed=seed, on_step=run.leave_if_stopping)
            if train.video_frames > 0:
                path = run.logdir / "videos" / f"{run.env_frames:09d}.mp4"
                try:
                    record(run.agent, path, seed=seed, size=128, max_frames=train.video_frames, on_frame=frames.append,
                           on_step=run.leave_if_stopping)  # fmt: skip
                except OSError as error:
                    frames.clear()
                    run.note(f"no video: {explain(error, path)}")
    except EnvironmentFailure as error:
        run.evaluated_at = run.env_frames
        run.note(f"no evaluation at {run.env_frames:,} env_frames: {error}")
        return
    run.evaluated_at = run.env_frames
    if line := cut_line(run.config, result.is_cut):
        run.note_once(f"evaluation: {line}; said once")
    run.recent["eval_return"] = result.mean
    run.logger.write(run.counters(), {"eval_return": result.mean, "eval_return_std": result.std})
    if frames:
        run.logger.video("evaluation", np.stack(frames), fps=20)
