"""Registries of parts that a setting chooses by name."""

from typing import TypeVar

from world_model.settings import unknown_key

Part = TypeVar("Part")


class Registry(dict[str, Part]):
    """A dict from names to parts of one `kind` ("prior"). An unknown name raises a one-line ValueError.

    Example:
        >>> PRIORS.register("laplace", lambda config: LaplacePrior(config.hidden_dim, config.latent_dim))
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str, part: Part) -> Part:
        """Add a part under a new name and return it. ValueError for a name that is taken."""
        if name in self:
            raise ValueError(f"{self.kind} '{name}': got a second one, expected a name that is not taken")
        self[name] = part
        return part

    def __missing__(self, name: str) -> Part:
        """Raise a ValueError that names the nearest known part."""
        if not self:
            raise ValueError(f"unknown {self.kind} '{name}'; none is registered")
        raise ValueError(unknown_key(name, list(self), self.kind))
