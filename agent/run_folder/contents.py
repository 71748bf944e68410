"""Checks of a checkpoint's contents, part by part, before anything is restored from it.

A file with a correct checksum may still come from another program, another version or a forger: after `check_run` a run
can be restored safely from its payload.
"""

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from agent.config.settings import Config
from agent.learning.agent import Agent
from agent.learning.muon import Muon
from agent.run_folder.schema import Array, Count, Each, Maybe, Table, check
from agent.run_folder.shards import OWN, num_ranks, of_rank
from envs.wording import one_line
from multi_task_learning import BalancedSum
from replay.entries import check_unfinished
from replay.rows import field_shapes
from world_model.settings import from_mapping

COUNTERS = {"env_frames": Count(), "agent_steps": Count(), "updates": Count(), "wall_seconds": float}
PARTS = {
    "config": Table(object),
    "counters": COUNTERS,
    "agent": Table(object),
    "replay": Table(object),
    "collector": Table(object),
    "due": {"updates": Count(), "evaluation": bool, "evaluated_at": Count(-1)},
    "ratio": {"origin": Count(), "given": Count()},
    "evaluate_clock": {"last": float},
    "guard": {"skipped": Count(), "in_a_row": Count()},
    "health": {"outside": Each(str), "streaks": Table(Count())},
    "means": Table(object),
    "random": Table(object),
}
RANK = dict.fromkeys((*OWN, "generators"), Table(object))  # a part of `ranks`
BASELINE = {
    "counters": COUNTERS,
    "due": {"updates": Count(), "evaluation": bool},
    "rounds": Count(),
    "parameters": Table(object),
    "variables": Table(Tensor),
    "replay": Table(object),
}
PCG64 = {"bit_generator": str, "state": {"state": object, "inc": object}, "has_uint32": Count(), "uinteger": Count()}
SPARE_BYTES, SPARE_TENSORS = 2**26, 2000  # that a model may take in addition to what its file holds
_MAKERS = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye, torch.arange)


def saved_config(payload: dict[str, Any]) -> Config:
    """Return the config that a run's checkpoint was written with. ValueError if it holds none."""
    if not isinstance(payload.get("config"), dict):
        raise ValueError("config: got none, expected the settings of a run")
    try:
        return from_mapping(Config, payload["config"])
    except ValueError as error:
        raise ValueError(f"config: {error}") from None


def is_baseline(payload: dict[str, Any]) -> bool:
    """Return whether a payload belongs to a run of a baseline of Stable-Baselines3."""
    return "parameters" in payload


def check_payload(payload: dict[str, Any]) -> None:
    """Run `check_run` or `check_baseline`."""
    (check_baseline if is_baseline(payload) else check_run)(payload)


def check_run(payload: dict[str, Any]) -> None:
    """Raise ValueError `<part>: got X, expected Y` unless a run can resume from this payload."""
    check(payload, PARTS | ({"ranks": Each(RANK)} if "ranks" in payload else {}), "payload")
    agent = check_model(payload)
    for part in payload.get("ranks", ()):
        _check_generators(part["generators"], agent)
    for index in range(num_ranks(payload)):
        _check_part(of_rank(payload, index), agent)


def _check_part(payload: dict[str, Any], built: Agent) -> None:
    """Check a payload as one rank reads it, apart from the weights of its agent."""
    collector = payload["collector"]
    _check_collector(collector, built)
    for name, counted in (("agent", ("updates",)), ("collector", ("env_frames", "agent_steps"))):
        for key in counted:
            check_equal(payload[name].get(key), payload["counters"][key], f"{name}.{key}")
    rows = [built.config.replay.capacity_steps] * built.config.env.num_envs  # what was running here before
    if (driver := collector.get("driver")) is not None:
        rows = [len(actions) for actions in driver["actions"]]
    _check_replay(payload["replay"], rows, built)
    check(payload["means"], {"sums": Table(Array(None, ())), "counts": Table(Count(1))}, "means")
    check(payload["means"]["counts"], dict.fromkeys(payload["means"]["sums"], Count(1)), "means.counts")
    _check_global_random_state(payload["random"])


def check_model(payload: dict[str, Any]) -> Agent:
    """Return an agent of the payload's config; ValueError unless the payload's weights fit it."""
    config, state = saved_config(payload), payload["agent"]
    is_counted = {"action_dim": Count(1), "is_discrete": bool, "updates": Count()}
    check({name: state.get(name) for name in is_counted}, is_counted, "agent")
    built = build_agent(config, state)
    check_agent(state, built)
    return built


def check_baseline(payload: dict[str, Any]) -> None:
    """Raise ValueError unless this is the payload of a baseline's run; weights are checked when they are loaded."""
    check(payload, BASELINE, "payload")
    folder = payload["replay"].get("folder")
    if not isinstance(folder, str) or Path(folder).name != folder or folder in (".", ".."):
        raise ValueError(
            f"replay.folder: got {str(folder)[:60]!r}, expected the name of a folder inside the run's folder"
        )


def check_equal(value: Any, expected: Any, where: str) -> None:
    """Raise ValueError unless a value agrees with another part of the file."""
    if type(value) is not type(expected) or value != expected:
        raise ValueError(f"{where}: got {str(value)[:60]}, expected {expected} as elsewhere in the file")


def check_agent(state: dict[str, Any], agent: Agent) -> None:
    """Raise ValueError unless `state` has the form of this agent's `state_dict`."""
    form = agent.state_dict()
    optimizers: dict[str, torch.optim.Optimizer] = {
        "model_optimizer": agent.model_learner.optimizer,
        "behavior_optimizer": agent.behavior_learner.optimizer,
    }
    if agent.exploration.optimizer is not None:
        optimizers["exploration_optimizer"] = agent.exploration.optimizer
    expected = dict.fromkeys(form, object) | {
        name: form[name] for name in ("model", "actor_critic", "average", "exploration") if name in form
    }
    check(state, expected, "agent")
    for name, optimizer in optimizers.items():
        _check_optimizer(state[name], optimizer, f"agent.{name}")
    if isinstance(agent.model_learner.rgb, BalancedSum):
        _check_balanced_sum(state["rgb"], agent)
    else:
        _check_rgb(state["rgb"], agent)
    _check_generators(state["generators"], agent)


def _check_generators(states: Any, agent: Agent) -> None:
    check(states, dict.fromkeys(agent.generators, Array(torch.uint8, (None,))), "agent.generators")
    for name, saved in states.items():
        if saved.shape == agent.generators[name].get_state().shape:
            _attempt(f"agent.generators.{name}", torch.Generator().set_state, saved.cpu())


def build_agent(config: Config, state: dict[str, Any]) -> Agent:
    """Build an agent of a file's config; ValueError if it would take much more memory than its `state`, the file's."""
    tensors = [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor)]
    try:
        with _Budget(sum(leaf.nbytes for leaf in tensors) + SPARE_BYTES, len(tensors) + SPARE_TENSORS):
            return Agent(config, state["action_dim"], "cpu", state["is_discrete"])
    except (RuntimeError, ArithmeticError, TypeError, AssertionError) as error:
        found = one_line(error, 100)
        raise ValueError(f"config: got settings from which no model can be built ({found})") from None


class _Budget(TorchFunctionMode):
    """A limit on the tensors created inside the block; ValueError before the one that exceeds it."""

    def __init__(self, num_bytes: int, num_tensors: int) -> None:
        super().__init__()
        self._bytes, self._tensors = num_bytes, num_tensors

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _MAKERS:
            described = {name: value for name, value in kwargs.items() if name != "generator"}
            self._bytes -= func(*args, **described | {"device": "meta"}).nbytes
            self._tensors -= 1
            if self._bytes < 0 or self._tensors < 0:
                raise ValueError("config: got a model that is larger than its file, expected the one that was saved")
        return func(*args, **kwargs)


def _check_optimizer(state: Any, optimizer: torch.optim.Optimizer, where: str) -> None:
    """Check the state of Adam (and Muon): no moments, or those of every parameter."""
    groups = optimizer.state_dict()["param_groups"]
    check(state, {"state": dict, "param_groups": Each(dict, len(groups))}, where)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    step = Array(torch.float32, ())
    moments: dict[int, dict[str, Any]] = {
        index: {"step": step, "momentum": parameter}
        if isinstance(optimizer, Muon) and parameter in optimizer.matrices
        else {"step": step, "exp_avg": parameter, "exp_avg_sq": parameter}
        for index, parameter in enumerate(parameters)
    }
    if state["state"]:
        check(state["state"], moments, f"{where}.state")
    for index, group in enumerate(groups):
        saved, place = state["param_groups"][index], f"{where}.param_groups[{index}]"
        check(saved, {name: float if name == "lr" else object for name in group}, place)
        for name in group.keys() - {"lr"}:
            check_equal(saved[name], group[name], f"{place}.{name}")


def _check_rgb(state: Any, agent: Agent) -> None:
    parameters = agent.model_learner.parameters
    keys = {"aggregator": dict, "frozen": Maybe(dict), "calls": Count(), "skipped": Array(torch.int64, ())}
    check(state, keys | {"metrics": Table(Tensor)}, "agent.rgb")
    tasks = len(state["metrics"]["nonfinite"]) if "nonfinite" in state["metrics"] else 0
    aggregator, float32 = state["aggregator"], torch.float32
    vector = Array(float32, (None,))
    check(aggregator, {"d": vector, "alpha": vector, "step": Array(torch.int64, ())}, "agent.rgb.aggregator")
    if len(aggregator["d"]) + len(aggregator["alpha"]) > 0:
        sizes = {"d": sum(p.numel() for p in parameters), "alpha": tasks}
        for name, size in sizes.items():
            check(aggregator[name], Array(float32, (size,)), f"agent.rgb.aggregator.{name}")
    frozen = {"weights": Array(float32, (tasks,)), "consensus_weight": Array(float32, ())}
    check(state["frozen"], Maybe(frozen | {"owners": Each(int, len(parameters))}), "agent.rgb.frozen")


def _check_balanced_sum(state: Any, agent: Agent) -> None:
    vector, count = Array(torch.float32, (None,)), Array(torch.int64, ())
    keys = {"gram": Array(torch.float32, (None, None)), "alpha": vector, "weights": vector}
    others = {"seen": count, "calls": Count(), "skipped": count, "metrics": Table(Tensor)}
    check(state, keys | others, "agent.rgb")
    tasks = len(agent.model_learner.aggregator.groups) if len(state["weights"]) else 0  # none before the first update
    for name, expected in keys.items():
        check(state[name], Array(torch.float32, (tasks,) * len(expected.shape)), f"agent.rgb.{name}")
        if not bool(state[name].isfinite().all()):  # a moving average would keep them for ever
            raise ValueError(f"agent.rgb.{name}: got numbers that are not finite, expected finite ones")


def _check_collector(state: dict[str, Any], agent: Agent) -> None:
    if "driver" not in state:  # of collectors elsewhere
        check(state, {"env_frames": Count(), "agent_steps": Count(), "numbers": Each(Count())}, "collector")
        return
    num_envs = agent.config.env.num_envs
    float32, flags = torch.float32, Array(torch.bool, (num_envs,))
    row = {
        "image": Array(torch.uint8, (num_envs, *agent.config.env.image_shape)),
        "reward": Array(float32, (num_envs,)),
    }
    row |= {"is_first": flags, "is_last": flags, "is_terminal": flags}
    row |= {"action": Array(float32, (num_envs, agent.action_dim))}
    if (vector_dim := agent.config.world_model.vector_dim) is not None:
        row |= {"vector": Array(float32, (num_envs, vector_dim))}
    actions = Array(float32, (None, agent.action_dim))
    expected = {
        "env_frames": Count(),
        "agent_steps": Count(),
        "driver": Maybe({"row": row, "episodes": Each(Count(), num_envs), "actions": Each(actions, num_envs)}),
        "random": dict,
        "returns": Each(float, num_envs),
        "memory": Maybe(pytree.tree_leaves(agent.initial_state(num_envs))),
    }
    check(state, expected, "collector")
    _check_drawer(state["random"], "collector.random")
    driver = state["driver"]
    if driver is None:  # before the first row
        return
    for index, taken in enumerate([driver["row"]["action"], *driver["actions"]]):
        if len(taken) == 0 or not bool((taken.abs() <= 1).all()):
            place = f"actions[{index - 1}]" if index else "row.action"
            raise ValueError(f"collector.driver.{place}: got no actions, or some outside [-1, 1], expected actions")
    for name in ("reward", "vector"):
        if name in row and not bool(driver["row"][name].isfinite().all()):
            raise ValueError(f"collector.driver.row.{name}: got numbers that are not finite, expected finite ones")


def _check_replay(state: dict[str, Any], rows: list[int], agent: Agent) -> None:
    """Check the replay's state, in which each environment's current episode may have so many rows."""
    number = Array(torch.int64, (None,))
    expected = {
        "rng": dict,
        "rows_added": Count(),
        "last_number": Count(-1),
        "episodes": {"number": number, "length": number, "digest": Array(torch.uint8, (None, 32))},
        "unfinished": Each(Array(torch.uint8, (None,)), len(rows)),
    }
    if "rows" in state:  # missing in checkpoints of versions that did not sample running episodes
        expected["rows"] = Count()
    check(state, expected, "replay")
    _check_drawer(state["rng"], "replay.rng")
    episodes = state["episodes"]
    numbers, lengths = episodes["number"].tolist(), episodes["length"].tolist()
    if not len(numbers) == len(lengths) == len(episodes["digest"]) or min(lengths, default=1) < 1:
        raise ValueError("replay.episodes: got lists of different lengths, expected number, length and digest of each")
    if any(a >= b for a, b in pairwise([-1, *numbers, state["last_number"] + 1])):
        raise ValueError("replay.episodes.number: got numbers out of order, expected ascending ones up to last_number")
    shapes = field_shapes(agent.config.env.image_shape, agent.action_dim, agent.config.world_model.vector_dim)
    for index, (packed, most) in enumerate(zip(state["unfinished"], rows, strict=True)):
        try:
            check_unfinished(packed, most, shapes)
        except ValueError as error:
            raise ValueError(f"replay.unfinished[{index}]: {error}") from None


def _check_drawer(state: Any, where: str) -> None:
    """Check the state of a numpy Generator."""
    check(state, PCG64, where)
    _attempt(where, lambda: setattr(np.random.PCG64(), "state", state))


def _check_global_random_state(state: dict[str, Any]) -> None:
    numpy = [str, Array(torch.uint32, (None,)), int, int, float]
    expected = {"python": tuple, "numpy": numpy, "torch": Array(torch.uint8, (None,))}
    check(state, expected | {"cuda": Each(Array(torch.uint8, (None,)))}, "random")
    name, keys, *rest = state["numpy"]
    _attempt("random.python", random.Random().setstate, state["python"])
    _attempt("random.numpy", np.random.RandomState().set_state, (name, keys.numpy(), *rest))
    _attempt("random.torch", torch.Generator().set_state, state["torch"])


def _attempt(where: str, use: Callable[..., Any], *arguments: Any) -> None:
    """Try a random state on a throwaway generator, since only its own library can validate it."""
    try:
        use(*arguments)
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError, IndexError):
        raise ValueError(f"{where}: got something else, expected the state of a random number generator") from None
