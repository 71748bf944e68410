"""AIME as a Stable-Baselines3 algorithm, with learn, predict, save and load.

model = AIME("cartpole_swingup", preset="cpu").learn(20_000)
actions, state = model.predict(observations, state, episode_start, deterministic=True)
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import check_for_correct_spaces, safe_mean

from agent.config.settings import Config
from agent.learning.agent import Agent, choose_device
from agent.run_folder.contents import check_agent, saved_config
from agent.run_folder.load import is_run, load_agent_run
from agent.run_folder.model_file import MODEL, REPLAY, File, read, read_model, write
from agent.run_folder.running_means import RunningMeans
from agent.run_folder.schema import check
from agent.stable_baselines.arguments import check_options, policy_first, positive
from agent.stable_baselines.callbacks import check_callback, evaluations
from agent.stable_baselines.envs import (
    Actions,
    GymEnv,
    config_of,
    is_task,
    prepared,
    run_spaces,
    space_from_plain,
    space_to_plain,
    task_envs,
    task_of,
)
from agent.stable_baselines.rollout import Rollout, torch_threads
from agent.training.threads import choose_threads, one_update
from envs.registered import make_registered
from envs.spaces import vector_dim_of
from envs.tasks import GYM_PREFIX
from replay import ReplayBuffer
from world_model.state import Memory

log = logging.getLogger(__name__)

_IN_TABLE = (
    "total_elbo",
    "perceiver_loss",
    "total_predictive",
    "total_reconstruction",
    "total_kl",
    "total_reward",
    "reward_nll",
    "actor_entropy",
    "critic_loss",
    "dream_return",
)


class AIME(BaseAlgorithm):
    """The agent of this package as an algorithm of Stable-Baselines3: callbacks, loggers and evaluate_policy work.

    A timestep is a decision of one environment (agent_steps). Learning works as in `agent.Trainer`: every frame is a
    row of replay; random actions fill it first, then there are train_ratio / (batch_size * batch_length) updates per
    timestep. The prefill takes replay.prefill_frames env_frames, divided by the action repeat and rounded up to
    timesteps, over all environments together. An environment of this package knows its action repeat; a step of any
    other one counts as one env_frame.

    Args:
        env: a gymnasium environment or a VecEnv of frames, or of Dicts of a frame and vectors; a gymnasium id; or a
            task of `run_agent.py train --task`, which is made with the preset's action repeat, render profile and
            num_envs. "CnnPolicy" may come before it, as in Stable-Baselines3, or be given as `policy`.
        preset: cpu, gpu, reference or debug.
        seed: seed of the agent and of the environments; None draws one.
        device: "auto", "cpu" or "cuda".
        verbose: 1 prints Stable-Baselines3's table.
        tensorboard_log: a folder for TensorBoard.
        overrides: settings of the preset under dotted keys, {"replay.batch_size": 8}.
        settings: settings as keywords, replay={"batch_size": 8}.

    Raises:
        ValueError: no frames, unsupported actions, an unknown preset or setting.
    """

    @policy_first
    def __init__(
        self,
        env: GymEnv | str | None = None,
        preset: str = "cpu",
        seed: int | None = None,
        device: str = "auto",
        verbose: int = 0,
        tensorboard_log: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        check_options(preset, verbose, tensorboard_log, overrides)
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0]) // 2
        given = {**(overrides or {}), **settings}
        if isinstance(env, str) and is_task(env):
            config = config_of(preset, env, seed, given)
            made: GymEnv = task_envs(config)
        else:
            made = make_registered(GYM_PREFIX + env) if isinstance(env, str) else env  # type: ignore[assignment]
            task, played = task_of(made)
            config = config_of(preset, task, seed, given, played)
        self._build(config, made, device, verbose, tensorboard_log)
        self.set_random_seed(config.seed)

    def _build(
        self,
        config: Config,
        env: GymEnv | None,
        device: str,
        verbose: int,
        tensorboard_log: str | None,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        """Build a new or a loaded model; without an environment, `saved` holds the spaces."""
        env = None if env is None else prepared(env, config.env.vector)
        super().__init__(
            BasePolicy,
            env,
            learning_rate=0.0,  # the config has the learning rates
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=choose_device(device),
            support_multi_env=True,
            seed=config.seed,
        )
        if saved is not None:
            spaces = [space_from_plain(saved[name]) for name in ("observation_space", "action_space")]
            if self.env is not None:
                check_for_correct_spaces(self.env, *spaces)
            self.observation_space, self.action_space = spaces
            self.n_envs = saved["n_envs"] if self.env is None else self.env.num_envs
        self.config = config
        self._setup_model()

    def _setup_model(self) -> None:
        """Create the agent; the replay buffer is created by the first learn()."""
        self._actions = Actions(self.action_space)
        self.config = self.config.with_vector(vector_dim_of(self.observation_space))
        self.agent = Agent(self.config, self._actions.dim, str(self.device), self._actions.is_discrete)
        if self.config.compile:
            self.agent.compile()
        self._rollout: Rollout | None = None
        self._means = RunningMeans()

    # ---------------------------------------------------------------- learning

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "AIME",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Play and learn for `total_timesteps` decisions over all environments, rounded up to whole ticks.

        Later calls continue with the same weights and replay; `optimizer.anneal` takes the end of each call for the end
        of the run. `log_interval` counts episodes; None logs nothing.
        ValueError if total_timesteps is below 1, there is no environment, or the replay does not fit into memory.
        """
        total_timesteps = positive("total_timesteps", total_timesteps)
        log_interval = None if log_interval is None else positive("log_interval", log_interval)
        check_callback(callback)
        if self.env is None:
            raise ValueError("env: got none, expected one before learn(): set_env(env), or load(path, env)")
        if self._rollout is None:
            self._rollout = Rollout(self.agent, self._actions, self.n_envs)
        elif reset_num_timesteps or self._last_obs is None or self._rollout.is_stepping:
            self._last_obs = None  # so that the environments are reset
            self._rollout.restart()
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        with torch_threads(choose_threads(self.config, one_update).count):
            callback.on_training_start(locals(), globals())
            while self.num_timesteps < total_timesteps and self._tick(self._rollout, callback, log_interval):
                self.agent.progress = self.num_timesteps / total_timesteps
                for _ in range(self._rollout.due()):
                    self._means.add(self.agent.update(self._rollout.sample()))
                self._n_updates = self.agent.updates
            self._rollout.warn_if_untrained()
            callback.on_training_end()
        return self

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        """Initialise callbacks, wrapping the environments of evaluations like those of training."""
        for evaluation in evaluations(callback):
            evaluation.eval_env = self._wrap_env(evaluation.eval_env, self.verbose)
        return super()._init_callback(callback, progress_bar)

    def _tick(self, rollout: Rollout, callback: BaseCallback, log_interval: int | None) -> bool:
        """Make one decision in every environment; return False if a callback ends the training."""
        assert self.env is not None
        callback.on_rollout_start()
        actions = rollout.act(self._last_obs)
        new_obs, rewards, dones, infos = self.env.step(actions)
        rollout.keep(rewards, dones, infos)
        self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]
        self.num_timesteps += self.n_envs
        self._update_info_buffer(infos, dones)
        callback.update_locals(locals())
        if not callback.on_step():
            return False
        callback.on_rollout_end()
        for _ in range(int(np.sum(dones))):
            self._episode_num += 1
            if log_interval is not None and self._episode_num % log_interval == 0:
                self.dump_logs()
        return True

    def dump_logs(self) -> None:
        """Log episodes, speed, and the means of the updates' metrics since the last call."""
        assert self.ep_info_buffer is not None
        if len(self.ep_info_buffer) > 0:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
        seconds = max(1e-9, (time.time_ns() - self.start_time) / 1e9)
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / seconds))
        self.logger.record("time/time_elapsed", int(seconds), exclude="tensorboard")
        self.logger.record("time/episodes", self._episode_num, exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.record("train/n_updates", self.agent.updates, exclude="tensorboard")
        for name, mean in self._means.take().items():
            if np.isfinite(mean):
                self.logger.record(f"train/{name}", mean, exclude=None if name in _IN_TABLE else "stdout")
        self.logger.dump(self.num_timesteps)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Continue in other environments. ValueError unless their spaces and number are the same."""
        env = prepared(env, self.config.env.vector)
        wrapped = self._wrap_env(env, self.verbose)
        if wrapped.num_envs != self.n_envs:
            raise ValueError(
                f"env: got {wrapped.num_envs} environments, expected {self.n_envs}; load(path, env) takes any"
            )
        super().set_env(wrapped, force_reset)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed the environments; the agent's own generators were seeded when it was created."""
        if seed is not None and self.env is not None:
            self.action_space.seed(seed)
            self.env.seed(seed)

    # ---------------------------------------------------------------- acting

    def predict(  # type: ignore[override]
        self,
        observation: NDArray[np.uint8] | Mapping[str, NDArray[Any]],
        state: Memory | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Memory]:
        """Choose actions as `Agent.predict` does, in the environment's own space."""
        with self.agent.average.swapped():
            actions, state = self.agent.predict(observation, state, episode_start, deterministic)
        return self._actions.to_env(actions), state

    # ---------------------------------------------------------------- saving

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        """Return the names of the parts that get_parameters and set_parameters handle."""
        return ["agent.model", "agent.actor_critic", "agent.average"], []

    def set_parameters(  # type: ignore[override]
        self, load_path_or_dict: File | Mapping[str, Any], exact_match: bool = True, device: str = "auto"
    ) -> None:
        """Load the weights of `get_parameters`, of a file written by `save` or of a run's folder; all or none.

        Without `exact_match`, missing parts and weights stay unchanged and additional weights are ignored. ValueError
        for unknown parts or other shapes.
        """
        own, state = self.get_parameters(), load_path_or_dict
        if not isinstance(state, Mapping):
            agent = _saved_model(state, choose_device(device))["agent"]
            state = {name: agent.get(name.removeprefix("agent."), {}) for name in own}
        unknown = [name for name in state if name not in own]
        if unknown:
            raise ValueError(f"parameters: got {unknown[0]!r}, expected some of {', '.join(own)}")
        if not exact_match:
            state = {name: _merged(own[name], part, name) for name, part in state.items()}
        check(dict(state), own if exact_match else {name: own[name] for name in state}, "parameters")
        modules = {"agent.model": self.agent.model, "agent.actor_critic": self.agent.actor_critic}
        for name, part in state.items():
            modules.get(name, self.agent.average).load_state_dict(part)

    def save(self, path: File) -> None:  # type: ignore[override]
        """Write config, weights, optimizers and counters (no replay) into one file without pickles.

        A path without suffix gets Stable-Baselines3's ".zip"; folders are created. A file open for bytes works too.
        """
        payload = {
            "config": asdict(self.config),
            "agent": self.agent.state_dict(),
            "num_timesteps": self.num_timesteps,
            "episodes": self._episode_num,
            "n_envs": self.n_envs,
        }
        spaces = {"observation_space": self.observation_space, "action_space": self.action_space}
        write(path, MODEL, payload | {name: space_to_plain(space) for name, space in spaces.items()})

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: File,
        env: GymEnv | str | None = None,
        device: str = "auto",
        verbose: int = 0,
        tensorboard_log: str | None = None,
    ) -> Self:
        """Load a file written by `save`, or the newest checkpoint of a run's folder.

        Without an environment the model can only predict. A task's name is made into an environment like the model's.
        FileNotFoundError if there is no such file, ValueError for a foreign file or an environment of other spaces.
        """
        check_options("", verbose, tensorboard_log, None)
        payload = _saved_model(path, choose_device(device))
        config = saved_config(payload)
        if isinstance(env, str):
            env = task_envs(replace(config, task=env)) if is_task(env) else make_registered(GYM_PREFIX + env)
        model = cls.__new__(cls)
        model._build(config, env, device, verbose, tensorboard_log, payload)
        check_agent(payload["agent"], model.agent)
        model.agent.load_state_dict(payload["agent"])
        model.num_timesteps, model._episode_num = payload["num_timesteps"], payload["episodes"]
        model._n_updates = model.agent.updates
        return model

    # ---------------------------------------------------------------- replay

    @property
    def replay_buffer(self) -> ReplayBuffer | None:
        """The replay buffer; None before the first learn() or load_replay_buffer()."""
        return None if self._rollout is None else self._rollout.replay

    def save_replay_buffer(self, path: File) -> None:
        """Write the replay's episodes into one compressed, checksummed file without pickles.

        A path without suffix gets Stable-Baselines3's ".pkl". Episodes in progress are saved as truncated; the oldest
        episode is omitted if its first rows have been overwritten. ValueError before the first learn().
        """
        if self._rollout is None:
            raise ValueError("replay_buffer: got none, expected one from learn() or load_replay_buffer()")
        write(path, REPLAY, self._rollout.state_dict())

    def load_replay_buffer(self, path: File) -> None:
        """Replace the replay by a file of `save_replay_buffer`; learn() then continues with new episodes.

        ValueError, with nothing changed, for a foreign or damaged file, for other actions, and for episodes longer than
        the replay.
        """
        rollout = Rollout(self.agent, self._actions, self.n_envs)
        rollout.load_state_dict(read(path, REPLAY))
        self._rollout, self._last_obs = rollout, None


def _saved_model(place: File, device: torch.device) -> dict[str, Any]:
    """Read a file written by `AIME.save`, or a run's newest checkpoint, in the same form."""
    if not is_run(place):
        return read_model(place, device)
    config, run = load_agent_run(place, log.warning)
    counts = {"num_timesteps": run["counters"]["agent_steps"], "episodes": run["replay"]["last_number"] + 1}
    spaces = run_spaces(
        run["agent"]["action_dim"], run["agent"]["is_discrete"], config.env.size, config.world_model.vector_dim
    )
    return {"config": asdict(config), "agent": run["agent"], "n_envs": config.env.num_envs} | counts | spaces


def _merged(own: Mapping[str, Any], part: Any, name: str) -> dict[str, Any]:
    """Return a module's weights, replaced by those of `part` with the same name."""
    if not isinstance(part, Mapping):
        raise ValueError(f"parameters.{name}: got {type(part).__name__}, expected a dict of tensors")
    return {key: part.get(key, value) for key, value in own.items()}
