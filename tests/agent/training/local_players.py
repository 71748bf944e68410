"""In place of `RayPlayers`: players in this process, who have finished as soon as they are asked to play."""

from collections.abc import Callable, Mapping
from typing import Any

from agent.config.settings import Config
from agent.training.player import Delivery, Player


class Lost(Exception):
    """What a lost process would raise."""


class LocalPlayer:
    """A Player, made at its first play; `fate` gets it and its delivery, and returns another one or raises."""

    def __init__(self, config: Config, index: int, number: int, fate: Callable[["LocalPlayer", Delivery], Delivery]):
        self.config, self.index, self.number, self._fate = config, index, number, fate
        self.player: Player | None = None
        self.is_playing = self.is_closed = False
        self.received: list[int] = []

    def play(self, weights: Any, updates: int) -> None:
        assert not self.is_playing
        assert not self.is_closed
        if self.player is None:
            self.player = Player(self.config, self.index, self.number)
        self.is_playing, self._delivery = True, self.player.play(weights, updates)
        self.received.append(updates)

    def receive(self, weights: Any, updates: int) -> None:
        assert self.is_playing
        assert self.player is not None
        self.player.receive(weights, updates)
        self.received.append(updates)

    def take(self) -> Delivery:
        assert self.is_playing
        self.is_playing = False
        return self._fate(self, self._delivery)

    def close(self) -> None:
        self.is_closed = True
        if self.player is not None:
            self.player._collector.close()


def keep(player: LocalPlayer, delivery: Delivery) -> Delivery:
    """The fate of a delivery that arrives as it is."""
    return delivery


def oldest(players: Mapping[int, LocalPlayer]) -> int | None:
    """The one of those who play that began first."""
    return next(iter(players))


class LocalPlayers:
    """Players of one run; `fate` as in LocalPlayer, `order` chooses whose delivery comes next, None: nobody's yet."""

    def __init__(
        self,
        config: Config,
        fate: Callable[[LocalPlayer, Delivery], Delivery],
        order: Callable[[Mapping[int, LocalPlayer]], int | None],
    ) -> None:
        self.config, self.fate, self.order = config, fate, order
        self.players: list[LocalPlayer] = []
        self.shared: list[dict[str, Any]] = []
        self.most_playing = 0

    def start(self, index: int, number: int) -> LocalPlayer:
        self.players.append(LocalPlayer(self.config, index, number, self.fate))
        return self.players[-1]

    def share(self, weights: dict[str, Any]) -> dict[str, Any]:
        self.shared.append(weights)
        return weights

    def first_ready(self, players: Mapping[int, LocalPlayer], seconds: float) -> int | None:
        self.most_playing = max(self.most_playing, len(players))
        return self.order(players)

    def close(self) -> None:
        for player in self.players:
            if not player.is_closed:
                player.close()
