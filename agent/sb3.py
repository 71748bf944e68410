"""AIME in the manner of Stable-Baselines3: an algorithm with learn, predict, save and load for its environments.

model = AIME("cartpole_swingup", preset="cpu").learn(20_000)
actions, state = model.predict(observations, state, episode_start, deterministic=True)
"""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import check_for_correct_spaces, safe_mean

from agent.agent import Agent, choose_device
from agent.checkpoint import load_checkpoint, write_checkpoint
from agent.config import Config, flatten
from agent.run_state import check_agent, saved_config
from agent.running_means import RunningMeans
from agent.sb3_envs import (
    Actions,
    GymEnv,
    check_spaces,
    config_of,
    is_task,
    name_of,
    prepared,
    space_from_plain,
    space_to_plain,
    task_envs,
)
from agent.sb3_rollout import Rollout, check_callback, torch_threads
from agent.schema import Count, check
from agent.threads import choose_threads
from envs.registered import make_registered
from envs.tasks import GYM_PREFIX
from world_model.state import Memory

_KIND = "agent.sb3.AIME"  # what a saved file says that it is
_IN_TABLE = (
    "total_elbo",
    "perceiver_loss",
    "total_predictive",
    "reward_nll",
    "actor_entropy",
    "critic_loss",
    "dream_return",
)
_FORM = {"kind": str, "config": dict, "agent": dict, "num_timesteps": Count(), "episodes": Count(), "n_envs": Count(1)}
_FORM |= dict.fromkeys(("observation_space", "action_space"), dict)


class AIME(BaseAlgorithm):
    """The agent of this package as an algorithm of Stable-Baselines3: callbacks, loggers and evaluate_policy work.

    A timestep is a decision of one environment (agent_steps). Learning is `agent.trainer.Trainer`'s: every frame is a
    row of replay, random actions fill it first, then train_ratio / (batch_size * batch_length) updates a timestep.

    Args:
        env: a gymnasium environment or a VecEnv of frames with continuous actions, a gymnasium id, or a task of
            `run_agent.py train --task`, which is made with the preset's action repeat, render profile and num_envs.
        preset: cpu, gpu, seed or debug.
        seed: of the agent and of the environments; None draws one.
        device: "auto", "cpu" or "cuda".
        verbose: 1 prints Stable-Baselines3's table.
        tensorboard_log: a folder for TensorBoard.
        overrides: settings of the preset under dotted keys, {"replay.batch_size": 8}.
        settings: the same as keywords, replay={"batch_size": 8}.

    Raises:
        ValueError: no frames, other actions, an unknown preset or setting.
    """

    def __init__(
        self,
        env: GymEnv | str,
        preset: str = "cpu",
        seed: int | None = None,
        device: str = "auto",
        verbose: int = 0,
        tensorboard_log: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0]) // 2
        made = make_registered(GYM_PREFIX + env) if isinstance(env, str) and not is_task(env) else env
        made = made if isinstance(made, str) else prepared(made)
        changes = dict(flatten({**(overrides or {}), **settings}))
        if isinstance(made, str):
            config = config_of(preset, made, seed, changes, is_made=False)
            made = task_envs(config)
        else:
            check_spaces(made.observation_space, made.action_space)
            config = config_of(preset, name_of(made), seed, changes, is_made=True)
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
        """What a new model and a loaded one have in common; without an environment, `saved` names the spaces."""
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
        """The agent; the replay buffer comes with the first learn()."""
        self._actions = Actions(self.action_space)
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
        """Play and learn for `total_timesteps` decisions, all environments together, and a tick's rest of them.

        Later calls go on with the same weights and replay. `log_interval` counts episodes; None logs nothing.
        ValueError where total_timesteps is below 1, there is no environment, or replay does not fit into memory.
        """
        if total_timesteps < 1:
            raise ValueError(f"total_timesteps: got {total_timesteps}, expected at least 1")
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
        with torch_threads(choose_threads(self.config).count):
            callback.on_training_start(locals(), globals())
            while self.num_timesteps < total_timesteps and self._tick(self._rollout, callback, log_interval):
                for _ in range(self._rollout.due()):
                    self._means.add(self.agent.update(self._rollout.sample()))
                self._n_updates = self.agent.updates
            self._rollout.warn_if_untrained()
            callback.on_training_end()
        return self

    def _tick(self, rollout: Rollout, callback: BaseCallback, log_interval: int | None) -> bool:
        """One decision of every environment; False where a callback ends the training."""
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
        """Log episodes, speed and the means of all metrics of the updates since the last time."""
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
        """Go on in other environments of the same spaces and number. ValueError for others."""
        env = prepared(env)
        check_spaces(env.observation_space, env.action_space)
        wrapped = self._wrap_env(env, self.verbose)
        if wrapped.num_envs != self.n_envs:
            raise ValueError(
                f"env: got {wrapped.num_envs} environments, expected {self.n_envs}; load(path, env) takes any"
            )
        super().set_env(wrapped, force_reset)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed the environments; the agent's own randomness has its seed since it was made."""
        if seed is not None and self.env is not None:
            self.action_space.seed(seed)
            self.env.seed(seed)

    # ---------------------------------------------------------------- acting

    def predict(  # type: ignore[override]
        self,
        observation: NDArray[np.uint8],
        state: Memory | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Memory]:
        """`Agent.predict` with actions in the environment's own space."""
        with self.agent.average.swapped():
            actions, state = self.agent.predict(observation, state, episode_start, deterministic)
        return self._actions.to_env(actions), state

    # ---------------------------------------------------------------- saving

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        """What get_parameters and set_parameters mean."""
        return ["agent.model", "agent.actor_critic", "agent.average"], []

    def save(self, path: str | Path) -> None:  # type: ignore[override]
        """Write config, weights, optimizers and counters (no replay) into one file without pickles.

        Where the name has no suffix it gets Stable-Baselines3's ".zip"; folders are made.
        """
        spaces = {"observation_space": self.observation_space, "action_space": self.action_space}
        payload = {
            "kind": _KIND,
            "config": asdict(self.config),
            "agent": self.agent.state_dict(),
            "num_timesteps": self.num_timesteps,
            "episodes": self._episode_num,
            "n_envs": self.n_envs,
        } | {name: space_to_plain(space) for name, space in spaces.items()}
        path = Path(path)
        write_checkpoint(path if path.suffix else path.with_name(f"{path.name}.zip"), payload)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        path: str | Path,
        env: GymEnv | None = None,
        device: str = "auto",
        verbose: int = 0,
        tensorboard_log: str | None = None,
    ) -> Self:
        """What `save` wrote, with an environment to go on in, or without one to predict only.

        FileNotFoundError where there is no such file, ValueError for a file that is not ours or an environment of other
        spaces.
        """
        path = Path(path)
        found = next((p for p in (path, path.with_name(f"{path.name}.zip")) if p.is_file()), None)
        if found is None:
            raise FileNotFoundError(f"path: got '{path}', expected a file that AIME.save wrote (there is none)")
        payload = load_checkpoint(found, choose_device(device))
        if payload.get("kind") != _KIND:
            raise ValueError(f"path: got '{found}', a checkpoint of a run, expected a file that AIME.save wrote")
        check(payload, _FORM, "payload")
        model = cls.__new__(cls)
        env = None if env is None else prepared(env)
        model._build(saved_config(payload), env, device, verbose, tensorboard_log, payload)
        check_agent(payload["agent"], model.agent)
        model.agent.load_state_dict(payload["agent"])
        model.num_timesteps, model._episode_num = payload["num_timesteps"], payload["episodes"]
        model._n_updates = model.agent.updates
        return model
