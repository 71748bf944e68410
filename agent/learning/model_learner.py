"""World-model learning: per-step losses -> three task losses -> balanced gradients -> clip -> Adam, Muon."""

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Generator, Tensor, nn

from agent.config.schedules import value_at
from agent.config.settings import LossConfig, OptimizerConfig
from agent.learning.muon import Muon
from multi_task_learning import RGB, BalancedSum, LossAggregator, task_names
from world_model import DPGMMVariationalRecurrentAutoencoder, ranks
from world_model.loss_groups import Groups, regroup
from world_model.monitors import measure
from world_model.output import ModelOutput
from world_model.state import Memory


class ModelLearner:
    """The learner of the world model: loss weights, gradient balancing and the optimizer."""

    def __init__(
        self,
        model: DPGMMVariationalRecurrentAutoencoder,
        losses: LossConfig,
        optimizer: OptimizerConfig,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model, self.losses, self.clip, self.autocast = model, losses, optimizer.model_clip, autocast
        groups = model.loss_groups()
        if model.config.gradient_method == "balanced":
            groups = regroup(groups)
        self.aggregator = LossAggregator(groups)
        self.rgb = _make_balancing(model, groups)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.rgb.get_share_params = lambda: iter(self.parameters)
        self.rgb.average = ranks.average
        self.optimizer: torch.optim.Adam
        if optimizer.matrix_lr > 0:
            self.optimizer = Muon(model, optimizer.model_lr, optimizer.matrix_lr)
        else:
            self.optimizer = torch.optim.Adam(self.parameters, lr=optimizer.model_lr, fused=True)

    def update(
        self,
        frames: Tensor,
        actions: Tensor,
        is_first: Tensor,
        rewards: Tensor,
        is_terminal: Tensor,
        generator: Generator | None = None,
        updates: int = 0,
        monitor: bool = False,
        start: Memory | None = None,
        vectors: Tensor | None = None,
    ) -> tuple[ModelOutput, dict[str, Tensor]]:
        """Take one gradient step on a chunk and return (output, metrics).

        frames: [B, T, 3, 64, 64]; the other tensors as in Chunk. updates: number of earlier updates, for scheduled
        weights. monitor: also measure the health monitors. start: the memory before the chunk, if it has a burn-in.
        """
        self.model.train()
        with self.autocast():
            output = self.model(
                frames, actions, is_first, rewards, is_terminal, generator, start=start, vectors=vectors
            )
        monitors: dict[str, Tensor] = {}
        if monitor:  # a separate, fixed generator: logging does not change the run
            noise = Generator(frames.device).manual_seed(0)
            monitors = measure(self.model, output, noise)
        weights = {name: value_at(schedule, updates) for name, schedule in asdict(self.losses).items()}
        terms, task_losses = self.aggregator.compute_losses(output.losses, **weights)
        self.optimizer.zero_grad(set_to_none=True)
        self.rgb.task_num = len(task_losses)
        self.rgb.backward(task_losses)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip, foreach=True)
        # Fused Adam skips a non-finite step on the device: weights, moments and step count stay unchanged.
        self.optimizer.found_inf = self.rgb.last_metrics["found_inf"]  # type: ignore[attr-defined]
        self.optimizer.step()
        self.model.after_update(output, generator)
        metrics = {name: value.detach() for name, value in terms.items()}
        metrics |= {name: value.detach() for name, value in output.scalars.items()}
        metrics |= self._balance_metrics(task_names(terms, self.aggregator.groups)) | monitors
        scheduled = [name for name, schedule in vars(self.losses).items() if isinstance(schedule, list)]
        metrics |= {name: torch.tensor(weights[name]) for name in scheduled}
        return output, metrics | {"model_grad_norm": norm, "kl_bound": output.prior.bound.detach().mean()}

    def _balance_metrics(self, totals: list[str]) -> dict[str, Tensor]:
        """Return norms, rotation angles and cosines of the tasks' gradients at the last solve, and non-finite flags.

        totals: names of the tasks.
        """
        found = self.rgb.last_metrics
        metrics = {"rgb_skipped": found["skipped"]}
        metrics |= {f"rgb_nonfinite/{total}": x.float() for total, x in zip(totals, found["nonfinite"], strict=True)}
        for name in ("task_grad_norm", "theta", "alpha", "weight"):
            for task, value in enumerate(found.get(name, ())):
                metrics[f"rgb_{name}/{task}"] = value
        if "task_cosine" in found:
            for i, j in itertools.combinations(range(len(found["task_cosine"])), 2):
                metrics[f"rgb_cosine/{i}{j}"] = found["task_cosine"][i, j]
        return metrics


def _make_balancing(model: DPGMMVariationalRecurrentAutoencoder, groups: Groups) -> RGB | BalancedSum:
    """Make what combines the gradients of the task losses in `groups`, from the model's settings."""
    settings, method = model.config.rgb_config, model.config.gradient_method
    if method == "balanced":
        balanced = BalancedSum(
            [settings.reward_share if total == "total_reward" else None for total in groups],
            settings.gram_decay,
            settings.min_weight,
            settings.max_weight,
            settings.lambd,
            settings.alpha_steps,
            settings.lr_inner,
            settings.every,
        )
        balanced.get_anchors = model.shared_parameters
        return balanced
    every = settings.every if method == "rgb" else 1  # only RGB has a lazy mode
    return RGB(method, settings.mu, settings.lambd, settings.alpha_steps, settings.lr_inner, settings.scale, every)
