"""What tests of every package share: an order of files, and a small run that is trained once."""

import shutil
from pathlib import Path

import pytest

SLOWEST = (
    "test_learning.py",
    "test_ranks.py",
    "test_compiling.py",
    "test_mutations.py",
    "test_exact_resume.py",
    "test_nonfinite.py",
    "test_doc_examples.py",
    "test_dmc.py",
    "test_cli.py",
    "test_trainer.py",
    "test_remote_collector.py",
    "test_resources.py",
    "test_endless_episodes.py",
    "test_settings_at_the_door.py",
    "test_evaluations.py",
    "test_vectors.py",
    "test_runs.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the slowest files to the front, so that no worker is left with one while the others have nothing to do.

    xdist hands files out in this order (--no-loadscope-reorder).
    """
    items.sort(key=lambda item: SLOWEST.index(item.path.name) if item.path.name in SLOWEST else len(SLOWEST))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the debug preset on `counting`, 120 env_frames, for tests that only read it."""
    from agent import Trainer, make_config

    logdir = tmp_path_factory.mktemp("finished") / "run"
    settings = {"env_frames": 120, "train.video_frames": 0}
    Trainer(make_config("debug", "counting", settings), logdir, quiet=True).run()
    return logdir


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, for tests that change it."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))
