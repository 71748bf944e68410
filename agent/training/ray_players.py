"""Players as actors of a Ray cluster."""

from collections.abc import Mapping
from typing import Any

from agent.config.settings import Config
from agent.training.player import Arrays, Delivery, Player
from agent.training.ray_connection import connect


class RayPlayer:
    """A `Player` in an actor's process.

    Args:
        ray: the module.
        actor: Ray's handle of the actor.
    """

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self._received: Any = None
        self.delivery: Any = None  # Ray's reference to what it was asked for

    def play(self, weights: Any, updates: int) -> None:
        """Ask for episodes."""
        self.delivery = self._actor.play.remote(weights, updates)

    def receive(self, weights: Any, updates: int) -> None:
        """Send weights while it plays, unless it has not taken the ones before, as when it is only starting."""
        if self._received is None or self._ray.wait([self._received], timeout=0)[0]:
            self._received = self._actor.receive.remote(weights, updates)

    def take(self) -> Delivery:
        """Return what it was asked for; an error of the player has its own type, RuntimeError if it is lost."""
        try:
            delivery: Delivery = self._ray.get(self.delivery)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise RuntimeError(_reason(str(error))) from None
        return delivery

    def close(self) -> None:
        """End the actor's process."""
        self._ray.kill(self._actor)


def _reason(text: str) -> str:
    """Return the telling line of Ray's report: the first, or of an error in the actor's constructor the last."""
    lines = text.strip().splitlines()
    return lines[-1] if "creation task" in lines[0] else lines[0]


class RayPlayers:
    """Players of a run on the Ray cluster at `env.ray`, one CPU each; they end with this process.

    ValueError in one line if Ray is missing or no cluster answers.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._ray = connect(config.env.ray, "env.ray")
        self._kind = self._ray.remote(num_cpus=1, max_concurrency=2, max_restarts=0, max_task_retries=0)(Player)

    def start(self, index: int, number: int) -> RayPlayer:
        """Start the player of this index, whose next episode has this number."""
        return RayPlayer(self._ray, self._kind.remote(self._config, index, number))

    def share(self, weights: Arrays) -> Any:
        """Put weights where every node fetches them once; return what `play` and `receive` take."""
        return self._ray.put(weights)

    def first_ready(self, players: Mapping[int, RayPlayer], seconds: float) -> int | None:
        """Return the first of the players that has finished or is lost, None if none has within these seconds."""
        deliveries = {player.delivery: index for index, player in players.items()}
        ready, _ = self._ray.wait(list(deliveries), num_returns=1, timeout=seconds)
        return deliveries[ready[0]] if ready else None

    def close(self) -> None:
        """End all actors and leave the cluster; a second call does nothing."""
        self._ray.shutdown()
