"""SAC and PPO of Stable-Baselines3 on the same frames as our agent: building, saving, loading and playing them.

Task, action repeat, render profile and prefill are the same as for our agent; the last STACK frames are stacked.
"""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.torch_layers import NatureCNN
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, VecTransposeImage

from agent.config.files import load_config
from agent.config.settings import Config
from agent.learning.agent import Mode, choose_device
from agent.run_folder.checkpoint import load_newest, save_checkpoint
from agent.run_folder.contents import check_baseline
from agent.stable_baselines.envs import task_envs
from envs.spaces import OneHot, one_hot
from envs.wording import one_line
from replay import check_budget

STACK = 3  # frames per observation
ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class Baseline:
    """A trained policy with the player interface of `agent.evaluation.episodes`; its memory is the frame stack."""

    def __init__(self, model: SAC | PPO, config: Config) -> None:
        self.algorithm, self.config, self.device = model, config, model.device
        is_cuda = model.device.type == "cuda"  # sampled actions are drawn from torch's own generator
        self.generators = {"act": torch.cuda.default_generators[0] if is_cuda else torch.default_generator}
        self._choices = int(model.action_space.n) if isinstance(model.action_space, Discrete) else 0

    @property
    def updates(self) -> int:
        """The number of gradient steps."""
        if isinstance(self.algorithm, SAC):
            return self.algorithm._n_updates  # not public in Stable-Baselines3
        rows = self.algorithm.n_steps * self.algorithm.n_envs
        return self.algorithm._n_updates * -(-rows // self.algorithm.batch_size)  # PPO counts epochs

    @property
    def num_parameters(self) -> int:
        """The number of trainable parameters, without SAC's target critic."""
        named = self.algorithm.policy.named_parameters()
        return sum(p.numel() for name, p in named if not name.startswith("critic_target"))

    def initial_state(self, num_envs: int) -> NDArray[np.uint8]:
        """Return black frames [N, H, W, 3 STACK], VecFrameStack's state before an episode."""
        height, width, channels = self.config.env.image_shape
        return np.zeros((num_envs, height, width, STACK * channels), np.uint8)

    def act(
        self,
        images: NDArray[np.uint8],
        is_first: NDArray[np.bool_],
        state: NDArray[np.uint8],
        mode: Mode,
        vectors: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return actions [N, A] for images [N, 64, 64, 3], and the updated frame stack."""
        state = np.where(is_first[:, None, None, None], np.uint8(0), state)
        state = np.concatenate([state[..., 3:], images], axis=-1)
        actions, _ = self.algorithm.predict(state.transpose(0, 3, 1, 2), deterministic=mode == "deterministic")
        return one_hot(actions, self._choices) if self._choices else actions.astype(np.float32), state

    @classmethod
    def load(cls, logdir: str | Path, device: str | None = None) -> "Baseline":
        """Load the policy of a run's newest checkpoint. FileNotFoundError if `logdir` holds none."""
        logdir = Path(logdir)
        config = load_config(logdir / "config.yaml")
        chosen = choose_device(device if device is not None else "auto")
        payload, _ = load_newest(logdir / "checkpoints", chosen, check_baseline)
        env = stacked_envs(config)
        try:
            model = make_model(config, env, chosen, buffer_rows=1)
        finally:
            env.close()
        _restore_weights(model, payload)
        return cls(model, config)


class _Choices(gymnasium.ActionWrapper[Any, Any, Any]):
    """A wrapper with Discrete actions around an environment that takes one-hot vectors."""

    def __init__(self, env: gymnasium.Env[Any, Any], n: int) -> None:
        super().__init__(env)
        self.action_space = Discrete(n)

    def action(self, action: Any) -> NDArray[np.float32]:
        """Return the one-hot vector of an action's number."""
        return one_hot(action, int(self.action_space.n))  # type: ignore[attr-defined]


def stacked_envs(config: Config) -> VecEnv:
    """Make the run's environments, whose observations are the last STACK frames: uint8 [N, 3 STACK, 64, 64].

    ValueError for SAC with discrete actions.
    """

    def choices(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        return _Choices(env, env.action_space.n) if isinstance(env.action_space, OneHot) else env

    envs = VecTransposeImage(VecFrameStack(task_envs(config, choices), STACK))
    if config.algo == "sac" and isinstance(envs.action_space, Discrete):
        envs.close()
        raise ValueError(f"algo: got 'sac' for the discrete actions of {config.task}, expected aime or ppo")
    return envs


def buffer_rows(config: Config) -> int:
    """Return the rows (agent_steps) of SAC's replay: the whole run, or as many as fit into buffer_gb."""
    budget = -(-config.env_frames // config.env.action_repeat)
    return max(config.env.num_envs, min(budget, int(config.sac.buffer_gb * 2**30) // _row_bytes(config)))


def _row_bytes(config: Config) -> int:
    """Return the bytes per row of SAC's replay: an observation and the next one."""
    return 2 * STACK * math.prod(config.env.image_shape)


def make_model(config: Config, env: VecEnv, device: torch.device, buffer_rows: int) -> SAC | PPO:
    """Make an untrained model. ReplayBudgetError if SAC's replay does not fit into memory."""
    shared: dict[str, Any] = {"seed": config.seed, "device": device}
    if config.algo == "ppo":
        return PPO("CnnPolicy", env, **shared, **vars(config.ppo))
    check_budget(buffer_rows * _row_bytes(config), None, None, "sac.buffer_gb (in GiB)", unit_bytes=2**30)
    prefill = config.replay.prefill_frames // config.env.action_repeat
    settings = {name: value for name, value in vars(config.sac).items() if name != "buffer_gb"}
    return SAC("CnnPolicy", env, buffer_size=buffer_rows, learning_starts=prefill, **shared, **settings)


def one_pass(config: Config) -> Callable[[], None]:
    """Return a function that runs a batch of noise forward and backward through a CNN, the main cost of an update."""
    shape = (3 * STACK, config.env.size, config.env.size)
    network = NatureCNN(Box(0, 255, shape, np.uint8))
    frames = torch.zeros(getattr(config, config.algo).batch_size, *shape)
    return lambda: network(frames).sum().backward()


# ---------------------------------------------------------------- saving: weights and arrays, no pickles


def save(baseline: Baseline, logdir: Path, counters: dict[str, Any]) -> None:
    """Write weights, optimizers, counters and SAC's replay to the run's folder, replacing older ones."""
    model = baseline.algorithm
    _, variables = model._get_torch_save_params()
    replay = _save_replay(model, logdir, counters["agent_steps"]) if isinstance(model, SAC) else {"folder": ""}
    payload = {
        "counters": counters,
        "due": {"updates": 0, "evaluation": False},  # as in our own runs: nothing is left to do
        "rounds": model._n_updates,
        "parameters": {name: dict(state) for name, state in model.get_parameters().items()},
        "variables": {name: getattr(model, name).detach() for name in variables},
        "replay": replay,
    }
    save_checkpoint(logdir / "checkpoints", payload, counters["updates"], keep=1)
    for stale in _replay_folders(logdir):
        if stale.name != replay["folder"]:
            shutil.rmtree(stale)


def restore(baseline: Baseline, logdir: Path) -> dict[str, Any]:
    """Restore what `save` wrote and return its counters. Random generators are seeded by the seed and the step."""
    model, config = baseline.algorithm, baseline.config
    payload, _ = load_newest(logdir / "checkpoints", model.device, check_baseline)
    _restore_weights(model, payload)
    if isinstance(model, SAC):
        _restore_replay(model, logdir / payload["replay"]["folder"], payload["replay"]["position"])
    model.set_random_seed(int(np.random.SeedSequence([config.seed, model.num_timesteps]).generate_state(1)[0]))
    return payload["counters"]


def _restore_weights(model: SAC | PPO, payload: dict[str, Any]) -> None:
    """Load the weights; a one-line ValueError if they do not fit the model."""
    parts, variables = model._get_torch_save_params()
    for name, wanted in (("parameters", parts), ("variables", variables)):
        if set(payload[name]) != set(wanted):
            raise ValueError(f"checkpoint: {name}: got {sorted(payload[name])}, expected {sorted(wanted)}")
    try:
        model.set_parameters(payload["parameters"])
        for name in variables:
            getattr(model, name).data.copy_(payload["variables"][name])
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        found = one_line(error, 200)
        raise ValueError(f"checkpoint: its weights do not fit this {type(model).__name__} ({found} ...)") from None
    model.num_timesteps, model._n_updates = payload["counters"]["agent_steps"], payload["rounds"]


def _save_replay(model: SAC, logdir: Path, agent_steps: int) -> dict[str, Any]:
    """Write SAC's rows to a new folder, so that those of the last checkpoint stay until the next one is complete."""
    buffer, folder = model.replay_buffer, logdir / f"replay-{agent_steps:09d}"
    assert buffer is not None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", getattr(buffer, name)[: buffer.size()])
    return {"folder": folder.name, "position": buffer.pos}


def _restore_replay(model: SAC, folder: Path, position: int) -> None:
    """Read the rows of `_save_replay` into a buffer of the same size or a larger one."""
    buffer, rows = model.replay_buffer, 0
    assert buffer is not None
    try:
        for name in ARRAYS:
            saved = np.load(folder / f"{name}.npy", mmap_mode="r")
            rows = len(saved)
            getattr(buffer, name)[:rows] = saved
    except (OSError, ValueError) as error:
        raise ValueError(f"replay: got a damaged folder '{folder}' ({error}), expected SAC's rows") from None
    buffer.full = rows == buffer.buffer_size
    buffer.pos = position % rows if buffer.full else rows


def _replay_folders(logdir: Path) -> list[Path]:
    return [path for path in logdir.glob("replay-*") if path.is_dir()]
