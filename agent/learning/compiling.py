"""torch.compile for the two loops over time, which consist of many small operations in eager torch."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

logger = logging.getLogger(__name__)


class Compiled:
    """A function compiled for the shapes of its first call; calls with other shapes run eagerly.

    Training needs only one shape, and evaluation must not wait minutes for another. If compiling fails (no C++
    compiler, an unsupported device), a warning says so and the function runs eagerly from then on.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.name = function, name
        self.compiled: Callable[..., Any] | None = torch.compile(function, dynamic=False)
        self.signature: tuple[Any, ...] | None = None
        # RGB runs several backward passes through one forward pass; donated buffers allow only one.
        torch._functorch.config.donated_buffer = False

    def __call__(self, *arguments: Any) -> Any:
        """Return the function's result, equal up to rounding."""
        if self.compiled is None:
            return self.function(*arguments)
        leaves = pytree.tree_leaves(arguments)
        signature = (torch.is_grad_enabled(), *((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves))
        if self.signature is None:
            self.signature = signature
            logger.warning("compiling the %s: minutes at the first start, less from torch's cache later", self.name)
            try:
                return self.compiled(*arguments)
            except Exception as error:  # any compiler error; an error of the function itself is raised again below
                self.compiled = None
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                logger.warning("the %s is not compiled and runs eagerly: %s", self.name, reason)
        if self.compiled is None or signature != self.signature:
            return self.function(*arguments)
        return self.compiled(*arguments)
