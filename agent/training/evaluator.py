"""Evaluations during training: deterministic episodes with fixed seeds, and a short video of the first one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.config.settings import Config
from agent.evaluation.episodes import Evaluation, TrainedPlayer, cut_line, evaluate
from agent.learning.errors import NotFinite
from agent.training.recovery import describe
from agent.training.stopping import Stopped
from agent.video.recording import record
from envs import Step
from envs.driver import EnvironmentFailure
from envs.encoders import EncodingError
from envs.wording import describe_error

EVALUATION_SEED = 10_000  # added to the run's seed, so that evaluation episodes differ from training episodes

Note = Callable[[str], None]
OnStep = Callable[[Step], None]


class Evaluated(NamedTuple):
    """The scores of an evaluation, and the frames of its video, empty if none was written."""

    scores: Evaluation
    frames: list[NDArray[np.uint8]]

    @property
    def metrics(self) -> dict[str, float]:
        """The scores under the names of the metrics."""
        return {"eval_return": self.scores.mean, "eval_return_std": self.scores.std}


class Evaluator:
    """The evaluation of a run's player. A failure skips this evaluation or video with one line and never ends the run.

    Args:
        config, logdir: settings and folder of the run.
        note: gets lines for the user.
        video_frames: length of the video; 0 writes none.
    """

    def __init__(self, config: Config, logdir: Path, note: Note, video_frames: int) -> None:
        self._config, self._logdir, self._note, self._video_frames = config, logdir, note, video_frames
        self._seed = config.seed + EVALUATION_SEED
        self._reported: set[str] = set()

    def __call__(self, player: TrainedPlayer, env_frames: int, on_step: OnStep | None = None) -> Evaluated | None:
        """Play the episodes of the evaluation at `env_frames`; return None if that failed.

        `on_step` gets every row; an exception from it (Stopped) ends the evaluation.
        """
        episodes = self._config.train.eval_episodes
        scores: Evaluation | None = None
        frames: list[NDArray[np.uint8]] = []
        with dispensable(f"evaluation at {env_frames:,} env_frames", self._note, self._logdir):
            scores = evaluate(player, episodes, seed=self._seed, on_step=on_step)
            if self._video_frames > 0:
                frames = self._record(player, env_frames, on_step)
        if scores is None:
            return None
        line = cut_line(self._config, scores.is_cut)
        if line is not None and line not in self._reported:
            self._reported.add(line)
            self._note(f"evaluation: {line} (shown once)")
        return Evaluated(scores, frames)

    def _record(self, player: TrainedPlayer, env_frames: int, on_step: OnStep | None) -> list[NDArray[np.uint8]]:
        """Write a short video and return its frames, or none if that failed."""
        path = self._logdir / "videos" / f"{env_frames:09d}.mp4"
        frames: list[NDArray[np.uint8]] = []
        with dispensable("video", self._note, path):
            record(
                player,
                path,
                seed=self._seed,
                size=128,
                max_frames=self._video_frames,
                on_frame=frames.append,
                on_step=on_step,
            )
            return frames
        return []


@contextmanager
def dispensable(what: str, note: Note, place: Path) -> Iterator[None]:
    """Turn failures inside the block, which the run can do without, into one line: "no <what>: <why>".

    Stopped and NotFinite still propagate, because they concern the run itself. `place` is the file or folder that the
    block writes.
    """
    try:
        yield
    except (Stopped, NotFinite):
        raise
    except (EnvironmentFailure, EncodingError) as error:
        note(f"no {what}: {error}")
    except OSError as error:
        note(f"no {what}: {describe(error, place)}")
    except (Exception, SystemExit) as error:  # an environment may call sys.exit
        note(f"no {what}: {describe_error(error)}")
