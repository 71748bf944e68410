"""The evaluations of a run while it trains: deterministic episodes with fixed seeds, and a short video of the first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from agent.evaluation.episodes import Evaluation, cut_line, evaluate
from agent.learning.errors import NotFinite
from agent.training.recovery import describe, one_line
from agent.training.stopping import Stopped
from agent.video.recording import record
from envs.driver import EnvironmentFailure
from envs.encoders import EncodingError

if TYPE_CHECKING:
    from agent.training.trainer import Trainer

EVALUATION_SEED = 10_000  # evaluation episodes start here, far from those of training


class Notable(Protocol):
    """A run, whose user reads its notes."""

    @property
    def logdir(self) -> Path:
        """Its folder."""

    def note(self, line: str) -> None:
        """Tell the user, and keep, a line of text."""


def evaluate_run(run: "Trainer") -> None:
    """Score the average of a run's weights, once at a frame; Stopped where the run is to end.

    Whatever fails costs this evaluation or this video, and one line: neither is worth a run. The next one tries anew.
    """
    if run.evaluated_at == run.env_frames:
        return
    train, seed = run.config.train, run.config.seed + EVALUATION_SEED
    run.display.busy(f"evaluating {train.eval_episodes} episodes")
    result: Evaluation | None = None
    frames: list[np.ndarray] = []
    with run.agent.average.swapped(), dispensable(run, f"evaluation at {run.env_frames:,} env_frames"):
        result = evaluate(run.agent, train.eval_episodes, seed=seed, on_step=run.leave_if_stopping)
        if train.video_frames > 0:
            frames = _record(run, seed)
    run.evaluated_at = run.env_frames
    if result is None:
        return
    if line := cut_line(run.config, result.is_cut):
        run.note_once(f"evaluation: {line}; said once")
    run.recent["eval_return"] = result.mean
    run.logger.write(run.counters(), {"eval_return": result.mean, "eval_return_std": result.std})
    if frames:
        with dispensable(run, "video in TensorBoard"):
            run.logger.video("evaluation", np.stack(frames), fps=20)


def _record(run: "Trainer", seed: int) -> list[np.ndarray]:
    """The frames of a short video that was written; none where that failed."""
    path, frames = run.logdir / "videos" / f"{run.env_frames:09d}.mp4", list[np.ndarray]()
    with dispensable(run, "video", path):
        record(run.agent, path, seed=seed, size=128, max_frames=run.config.train.video_frames, on_frame=frames.append,
               on_step=run.leave_if_stopping)  # fmt: skip
        return frames
    return []


@contextmanager
def dispensable(run: Notable, what: str, place: Path | None = None) -> Iterator[None]:
    """Whatever fails inside, which a run can do without, is noted in one line: "no <what>: <why>".

    Stops pass, and so do numbers that are not finite, which are the run's own trouble. `place` is the file that is
    written inside.
    """
    try:
        yield
    except (Stopped, NotFinite):
        raise
    except (EnvironmentFailure, EncodingError) as error:
        run.note(f"no {what}: {error}")
    except OSError as error:
        run.note(f"no {what}: {describe(error, place if place is not None else run.logdir)}")
    except (Exception, SystemExit) as error:  # an environment may leave by sys.exit too
        run.note(f"no {what}: {one_line(error)}")
