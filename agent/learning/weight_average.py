"""A moving average of weights, used for evaluation and acting while training continues with the weights themselves."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The exponential moving average of parameters: avg <- d * avg + (1 - d) * parameter after every update.

    Over the first 1 / (1 - decay) updates it is their plain mean, so the initial weights leave no trace. At a constant
    learning rate the last weights of a run fluctuate around their mean (Polyak and Juditsky, 1992).

    Args:
        parameters: the trained parameters by name.
        decay: d, in [0, 1); 0 keeps no average, and every method then does nothing.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self._parameters = parameters if decay > 0 else {}
        self._averages = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._is_swapped = False

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Add the parameters after `updates` updates, 1 or more."""
        if self._averages:
            blend = get_ema_multi_avg_fn(min(self.decay, 1 - 1 / updates))
            blend(list(self._averages.values()), list(self._parameters.values()), updates)

    def swap(self) -> None:
        """Exchange parameters and averages in place; optimizers keep their references."""
        for name, parameter in self._parameters.items():
            parameter.data, self._averages[name] = self._averages[name], parameter.data
        self._is_swapped = not self._is_swapped

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Replace the parameters by their averages inside the block, if they are not replaced already."""
        if self._is_swapped:
            yield
            return
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by name; empty if there is no average."""
        return dict(self._averages)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True) -> None:
        """Restore `state_dict` of the same parameters; unless `strict`, missing ones stay unchanged."""
        for name, average in self._averages.items():
            if strict or name in state:
                average.copy_(state[name])
