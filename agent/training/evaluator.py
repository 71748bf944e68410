"""The evaluations of a run while it trains: deterministic episodes with fixed seeds, and a short video of the first."""

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
from envs.wording import told

EVALUATION_SEED = 10_000  # evaluation episodes start here, far from those of training

Note = Callable[[str], None]
OnStep = Callable[[Step], None]


class Evaluated(NamedTuple):
    """What an evaluation found, and the frames of the video that was written, none where there is none."""

    scores: Evaluation
    frames: list[NDArray[np.uint8]]


class Evaluator:
    """Scores the player of a run. Whatever fails costs this evaluation or this video, and one line: neither is worth a
    run. The next one tries anew.

    Args:
        config, logdir: of the run.
        note: takes a line for the user.
        video_frames: length of the video; 0 writes none.
    """

    def __init__(self, config: Config, logdir: Path, note: Note, video_frames: int) -> None:
        self._config, self._logdir, self._note, self._video_frames = config, logdir, note, video_frames
        self._seed = config.seed + EVALUATION_SEED
        self._told: set[str] = set()

    def __call__(self, player: TrainedPlayer, env_frames: int, on_step: OnStep | None = None) -> Evaluated | None:
        """Play the episodes of the evaluation at `env_frames`; None where that failed.

        `on_step` gets every row; what it raises (Stopped) ends the evaluation.
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
        if line is not None and line not in self._told:
            self._told.add(line)
            self._note(f"evaluation: {line}; said once")
        return Evaluated(scores, frames)

    def _record(self, player: TrainedPlayer, env_frames: int, on_step: OnStep | None) -> list[NDArray[np.uint8]]:
        """The frames of a short video that was written; none where that failed."""
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
    """Whatever fails inside, which a run can do without, is noted in one line: "no <what>: <why>".

    Stops pass, and so do numbers that are not finite, which are the run's own trouble. `place` is the file or folder
    that is written inside.
    """
    try:
        yield
    except (Stopped, NotFinite):
        raise
    except (EnvironmentFailure, EncodingError) as error:
        note(f"no {what}: {error}")
    except OSError as error:
        note(f"no {what}: {describe(error, place)}")
    except (Exception, SystemExit) as error:  # an environment may leave by sys.exit too
        note(f"no {what}: {told(error)}")
