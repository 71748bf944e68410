"""ReplayBuffer at its door: bad rows and bad arguments."""

from itertools import islice
from typing import Any

import numpy as np
import pytest

from replay import Episode, ReplayBuffer
from tests.replay.replay_rows import make_buffer, make_episode, ticks


def change(episode: Episode, field: str, index: Any, value: Any) -> Episode:
    array = getattr(episode, field).copy()
    array[index] = value
    return episode._replace(**{field: array})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (change(make_episode(5), "reward", 2, np.nan), r"episode\.reward: got nan"),
        (change(make_episode(5), "reward", 0, 1.0), r"episode\.reward: got a non-zero number where is_first"),
        (change(make_episode(5), "action", (1, 0), 1.5), r"episode\.action: got 1\.5"),
        (change(make_episode(5), "action", (1, 0), np.nan), r"episode\.action: got nan"),
        (
            change(make_episode(5), "action", (4, 1), 0.5),
            r"episode\.action: got a non-zero one where is_last",
        ),
        (change(make_episode(5), "is_first", 2, True), r"episode\.is_first|episode\.reward"),
        (change(make_episode(5), "is_last", 4, False), r"episode\.is_last"),
        (change(make_episode(5), "is_terminal", 1, True), r"episode\.is_terminal"),
        (make_episode(5)._replace(image=np.zeros((5, 4, 4, 3), np.float32)), r"episode\.image: got float32"),
        (make_episode(5)._replace(image=np.zeros((5, 8, 8, 3), np.uint8)), r"episode\.image: .*expected uint8 \[5, 4"),
        (make_episode(5)._replace(action=np.zeros((5, 3), np.float32)), r"episode\.action: got float32 \[5, 3\]"),
        (make_episode(5)._replace(is_last=[False] * 5), r"episode\.is_last: got list"),  # type: ignore[arg-type]
        (make_episode(5).map(lambda field: field[:0]), r"episode: got no rows"),
        (make_episode(101), r"episode: got 101 rows, expected at most the capacity of 100"),
    ],
)
def test_bad_episodes_are_refused_and_leave_the_buffer_alone(bad: Episode, message: str) -> None:
    buffer = make_buffer(100)
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        buffer.add_episode(bad)
    assert "\n" not in str(caught.value)
    assert (len(buffer), buffer.num_episodes) == (0, 0)


def test_rows_out_of_order_are_refused() -> None:
    buffer = make_buffer(8, num_envs=2)
    steps = list(islice(ticks(2, lambda worker, episode: 20), 9))
    with pytest.raises(ValueError, match=r"^step\.is_first\[0\]: got False, expected True at its start"):
        buffer.add(steps[1])
    buffer.add(steps[0])
    with pytest.raises(ValueError, match=r"^step\.is_first\[0\]: got True, expected False inside"):
        buffer.add(steps[0])
    one_env = steps[1].map(lambda field: field[:1])
    with pytest.raises(ValueError, match=r"^step\.image: got uint8 \[1,"):
        buffer.add(one_env)
    for step in steps[1:4]:
        buffer.add(step)
    with pytest.raises(ValueError, match=r"^episode: got 5 rows, expected at most 4 \(the capacity over the"):
        buffer.add(steps[4])
    assert buffer.num_staged == 8


def test_bad_arguments_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"^capacity_steps, capacity_bytes: got neither"):
        ReplayBuffer(action_dim=2)
    with pytest.raises(ValueError, match=r"^capacity_steps: got 0"):
        make_buffer(0)
    with pytest.raises(ValueError, match=r"^capacity_bytes: got 10"):
        ReplayBuffer(capacity_bytes=10, action_dim=2)
    with pytest.raises(ValueError, match=r"^capacity: got room for 2 rows, expected at least num_envs \(3\)$"):
        make_buffer(2, num_envs=3)
    with pytest.raises(ValueError, match=r"^num_envs: got 0"):
        make_buffer(num_envs=0)
    for recency in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"^recency: got {recency}, expected a number of at least 0$"):
            make_buffer(recency=recency)
    buffer = make_buffer()
    with pytest.raises(ValueError, match=r"^length: got 1, expected 1 to 0"):
        buffer.sample(1, 1)
    buffer.add_episode(make_episode(5))
    for length in (0, 6):
        with pytest.raises(ValueError, match=f"^length: got {length}, expected 1 to 5"):
            buffer.sample(1, length)
    with pytest.raises(ValueError, match=r"^batch: got 0"):
        buffer.sample(0, 2)
    with pytest.raises(ValueError, match=r"^state: got the keys"):
        make_buffer().load_state_dict({"rng": {}})
    with pytest.raises(ValueError, match=r"^load_state_dict: got a buffer with 5 rows"):
        buffer.load_state_dict(buffer.state_dict())
