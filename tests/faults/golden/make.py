"""Make the golden run beside this file: python tests/agent/golden/make.py, only for a new format version.

Weights and moments are a short pattern instead of learned numbers, so that the checkpoint takes kilobytes, compressed.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import zstandard

from agent import Trainer, make_config
from agent.run_folder.checkpoint import checkpoint_paths, load_checkpoint, write_checkpoint

FOLDER = Path(__file__).parent
SETTINGS = {"env_frames": 70, "replay.prefill_frames": 60, "train.eval_episodes": 1, "train.video_frames": 0}
SETTINGS |= {"env.num_envs": 1, "train.train_ratio": 2}


def patterned(value: Any) -> Any:
    """The same nested state with 0, 1/8, ... 6/8, 0, ... in every float tensor."""
    if isinstance(value, dict):
        return {key: patterned(part) for key, part in value.items()}
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 0:
        return (torch.arange(value.numel()) % 7 / 8).reshape(value.shape)
    return value


def main() -> None:
    """Train for a moment, replace the weights, compress."""
    with TemporaryDirectory() as folder:
        logdir = Path(folder)
        Trainer(make_config("debug", "reaching", SETTINGS), logdir, quiet=True).run()
        path = checkpoint_paths(logdir / "checkpoints")[-1]
        payload = load_checkpoint(path)
        for name in ("model", "actor_critic", "model_optimizer", "behavior_optimizer", "rgb"):
            payload["agent"][name] = patterned(payload["agent"][name])
        write_checkpoint(path, payload)
        compressed = zstandard.ZstdCompressor(level=19).compress(path.read_bytes())
        (FOLDER / f"{path.name}.zst").write_bytes(compressed)
        for source in [logdir / "config.yaml", *sorted((logdir / "episodes").glob("*.ep"))]:
            shutil.copy(source, FOLDER / source.name)


if __name__ == "__main__":
    main()
