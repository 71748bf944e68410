"""The guard against non-finite numbers: reports skipped updates and their causes, and stops after too many."""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agent.learning.agent import Agent
from agent.learning.errors import NotFinite
from agent.run_folder.checkpoint import checkpoint_paths, write_checkpoint
from replay import Chunk
from world_model.loss_groups import terms

KEPT_DUMPS = 3
_LATE = 4  # updates after which a GPU's flags are read: by then they lie in host memory, and nothing waits
_BEHAVIOR_LOSSES = ("actor_loss", "critic_loss")
_NORMS = {"actor_grad_norm": "actor", "critic_grad_norm": "critic"}
_TASK_FLAG, _BEHAVIOR_FLAG = "rgb_nonfinite/", "behavior_skipped"


class _Update(NamedTuple):
    """One update whose flags are on their way to the host."""

    number: int
    chunk: Chunk
    random: Tensor  # state of the generator before the update
    names: list[str]
    values: Tensor
    event: Any  # CUDA event, complete once `values` have arrived; None on a CPU


class Guard:
    """The watcher of a run's updates, which counts and explains those that the optimizers skipped.

    The first of several consecutive skips writes `<logdir>/faults/<updates>.pt` with its chunk and the agent's state.
    NotFinite after `max_skipped` consecutive skips. On a GPU the flags are read some updates later, so that the host
    never waits for the device.

    Args:
        logdir: the run's folder.
        max_skipped: number of consecutive skipped updates that is too many.
        tell: gets lines for the user.
        late: number of further updates after which flags are read; None: 0 on a CPU, 4 on a GPU.
    """

    def __init__(self, logdir: Path, max_skipped: int, tell: Callable[[str], None], late: int | None = None) -> None:
        self._folder, self._max_skipped, self._tell, self._late = logdir / "faults", max_skipped, tell, late
        self._waiting: deque[_Update] = deque()
        self.skipped = self.in_a_row = 0

    def update(self, agent: Agent, chunk: Chunk) -> dict[str, Tensor]:
        """Run Agent.update and check it. NotFinite after too many skips."""
        random = agent.generators["learn"].get_state()
        metrics = agent.update(chunk)
        losses = {*terms(agent.model.loss_groups()), *_BEHAVIOR_LOSSES}
        self._waiting.append(_Update(agent.updates, chunk, random, *_flags(metrics, losses)))
        late = self._late if self._late is not None else _LATE * (agent.device.type == "cuda")
        while len(self._waiting) > late:
            self._judge(agent, self._waiting.popleft())
        return metrics

    def finish(self, agent: Agent) -> None:
        """Read all pending flags, and check the weights themselves; NotFinite if they are broken."""
        while self._waiting:
            self._judge(agent, self._waiting.popleft())
        broken = next(_broken_weights(agent), None)
        if broken is not None:
            raise NotFinite(f"weights are not finite ({broken})")

    def _judge(self, agent: Agent, update: _Update) -> None:
        if update.event is not None:
            update.event.synchronize()
        found = dict(zip(update.names, update.values.tolist(), strict=True))
        if not any(value > 0 for name, value in found.items() if _is_flag(name)):
            if _BEHAVIOR_FLAG in found:  # else actor and critic did not learn here, and may still be broken
                self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += 1
        fault = offending(found)
        if self.in_a_row == 1:
            path = self._dump(agent, update, fault)
            self._tell(f"update {update.number:,}: skipped, not finite: {fault}; its batch and the agent: {path}")
        if self.in_a_row >= self._max_skipped:
            raise NotFinite(f"{self.in_a_row} updates in a row were skipped, the last for {fault} not being finite")

    def _dump(self, agent: Agent, update: _Update, fault: str) -> Path:
        state = agent.state_dict()
        state["generators"]["learn"] = update.random  # so that the update can be repeated
        payload = {"fault": fault, "update": update.number, "chunk": update.chunk.fields(), "agent": state}
        path = self._folder / f"{update.number:09d}.pt"
        write_checkpoint(path, payload)
        # A run that went back repeats update numbers, so old dumps are removed by age, not by number.
        by_age = sorted(checkpoint_paths(self._folder), key=lambda kept: kept.stat().st_mtime_ns)
        for stale in by_age[:-KEPT_DUMPS]:
            stale.unlink()
        return path

    def state_dict(self) -> dict[str, int]:
        """Return the counters."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore `state_dict`, taken after `finish`."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]


def offending(found: Mapping[str, float]) -> str:
    """Name the losses that are not finite; if all are finite, name the owners of the non-finite gradients."""
    values = {name: value for name, value in found.items() if not _is_flag(name) and name not in _NORMS}
    losses = [name for name, value in values.items() if not math.isfinite(value)]
    if losses:
        more = f" and {len(losses) - 3} more" if len(losses) > 3 else ""
        return ", ".join(losses[:3]) + more
    flagged = [name for name, value in found.items() if name.startswith(_TASK_FLAG) and value > 0]
    owners = [name.removeprefix(_TASK_FLAG) for name in flagged]
    owners = owners or [owner for norm, owner in _NORMS.items() if not math.isfinite(found.get(norm, 0.0))]
    return f"gradient of {', '.join(owners)}"


def _is_flag(name: str) -> bool:
    return name.startswith(_TASK_FLAG) or name == _BEHAVIOR_FLAG


def _flags(metrics: Mapping[str, Tensor], losses: Collection[str]) -> tuple[list[str], Tensor, Any]:
    """Return what `offending` needs of an update's metrics, copied to the host: names, values, the copy's event."""
    names = [name for name in metrics if _is_flag(name) or name in losses or name in _NORMS]
    values = torch.stack([metrics[name].detach().float() for name in names])
    if values.device.type != "cuda":
        return names, values, None
    host = torch.empty(values.shape, pin_memory=True)
    host.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(values.device))
    return names, host, event


def _broken_weights(agent: Agent) -> Iterator[str]:
    """Yield the names of weights, averages, buffers and optimizer moments that are not finite."""
    optimizers = {"model": agent.model_learner.optimizer, "behavior": agent.behavior_learner.optimizer}
    modules = {"world model": agent.model, "actor and critic": agent.actor_critic, "exploration": agent.exploration}
    weights = {place: module.state_dict() for place, module in modules.items()}
    weights["weights' average"] = agent.average.state_dict()
    for place, tensors in weights.items():
        for name, value in tensors.items():
            if not torch.isfinite(value).all():
                yield f"{name} of the {place}"
    for place, optimizer in optimizers.items():
        for moments in optimizer.state.values():
            for name, value in moments.items():
                if not torch.isfinite(value).all():
                    yield f"{name} of the {place}'s optimizer"
