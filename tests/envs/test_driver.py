"""Driver: rows in the schema of Step, proved by the numbers that CountingEnv writes into its pixels."""

import os
import signal
from functools import partial
from itertools import pairwise
from multiprocessing import forkserver

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs import Driver, Step, make_env, make_vector_env, workers
from envs.counting import decode_frame

LENGTH = 4  # steps per episode: LENGTH + 1 rows


def uniform(step):
    """A policy that leaves the bounds now and then."""
    return np.random.default_rng(int(step.reward.sum())).uniform(-1.5, 1.5, step.action.shape)


def stacked(steps):
    """Return a Step whose fields are [ticks, N, ...]."""
    return Step(**{name: np.stack([step.fields()[name] for step in steps]) for name in steps[0].fields()})


def tick_twice(running):
    """Tick past an answer that a worker may have sent before it went wrong."""
    running.tick(uniform)
    running.tick(uniform)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("is_terminating", [False, True])
def test_every_tick_is_one_row_in_order(num_envs, is_terminating):
    make = partial(make_vector_env, "counting", num_envs, size=16, length=LENGTH, is_terminating=is_terminating)
    with Driver(make()) as running:
        rows = stacked([running.tick(uniform) for _ in range(13)])
    worker, episode, step = decode_frame(rows.image)  # [13, N]
    ticks = np.arange(13)[:, None]
    np.testing.assert_array_equal(worker, np.broadcast_to(np.arange(num_envs), (13, num_envs)))
    # The first reset takes no seed from the driver, so the constructor's: episode 0.
    np.testing.assert_array_equal(episode, np.broadcast_to(ticks // (LENGTH + 1), (13, num_envs)))
    np.testing.assert_array_equal(step, np.broadcast_to(ticks % (LENGTH + 1), (13, num_envs)))
    np.testing.assert_array_equal(rows.reward, step)
    np.testing.assert_array_equal(rows.is_first, step == 0)
    np.testing.assert_array_equal(rows.is_last, step == LENGTH)
    np.testing.assert_array_equal(rows.is_terminal, (step == LENGTH) & is_terminating)
    assert (rows.action[rows.is_last] == 0).all()
    assert (rows.action[~rows.is_last] != 0).any(-1).all()
    assert np.abs(rows.action).max() == 1
    kinds = [field.dtype for field in rows.fields().values()]
    assert kinds == [np.uint8, np.float32, np.bool_, np.bool_, np.bool_, np.float32]


def test_environments_end_each_in_its_own_time():
    lengths = (2, 3, 5)
    makers = [partial(make_env, "counting", worker=i, length=length) for i, length in enumerate(lengths)]
    with Driver(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)) as running:
        rows = stacked([running.tick(uniform) for _ in range(14)])
    _, episode, step = decode_frame(rows.image)
    for i, length in enumerate(lengths):
        np.testing.assert_array_equal(step[:, i], np.arange(14) % (length + 1))
        np.testing.assert_array_equal(episode[:, i], np.arange(14) // (length + 1))
        np.testing.assert_array_equal(rows.is_last[:, i], step[:, i] == length)


def test_the_executed_action_is_the_one_in_the_row():
    makers = [partial(make_env, "reaching", seed=3, size=8, axes=2)]
    running = Driver(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP))
    env = make_env("reaching", seed=3, size=8, axes=2)
    image, reward = env.reset()[0], 0.0
    for _ in range(10):
        row = running.tick(lambda step: np.array([[0.3, 5.0]]))
        np.testing.assert_array_equal(row.image[0], image)
        assert row.reward[0] == np.float32(reward)
        np.testing.assert_array_equal(row.action, np.float32([[0.3, 1.0]]))
        image, reward, *_ = env.step(row.action[0])


def test_environments_step_before_the_next_tick_asks_for_the_row():
    with Driver(make_vector_env("counting", 2, size=8)) as running:
        running.tick(uniform)
        assert all(pipe.poll(60) for pipe in running._workers.parent_pipes)  # the answers come without being asked for
        assert decode_frame(running.tick(uniform).image)[2].tolist() == [1, 1]


def test_rows_are_fresh_and_the_policy_sees_zero_actions():
    seen = []

    def policy(step):
        seen.append(step)
        assert not step.action.any()
        return np.ones((2, 2))

    with Driver(make_vector_env("counting", 2, size=8)) as running:
        rows = [running.tick(policy) for _ in range(4)]
        kept = stacked(rows)
        running.tick(policy)
        for before, after in zip(kept, stacked(rows), strict=True):
            np.testing.assert_array_equal(before, after)
    for a, b in pairwise(rows):
        assert not any(np.shares_memory(a.fields()[name], b.fields()[name]) for name in a.fields())
    assert not any(step.action.any() for step in seen)


def test_a_bad_action_is_one_line_and_loses_no_row():
    running = Driver(make_vector_env("counting", 1, size=8))
    running.tick(uniform)
    for action in (np.zeros((1, 3)), np.zeros(2), np.full((1, 2), np.nan), None):
        with pytest.raises(ValueError, match=r"^action: got [^\n]*expected [^\n]*$"):
            running.tick(lambda step, action=action: action)
    assert decode_frame(running.tick(uniform).image)[2] == 1


def test_a_seed_overrides_the_environments_own():
    def first_frame(seed, env_seed):
        return Driver(make_vector_env("reaching", 1, seed=env_seed), seed=seed).tick(uniform).image

    np.testing.assert_array_equal(first_frame(7, 0), first_frame(7, 1))
    assert (first_frame(7, 0) != first_frame(8, 0)).any()
    assert (first_frame(None, 0) != first_frame(None, 1)).any()


def test_other_vector_environments_are_refused():
    same_step = SyncVectorEnv([partial(make_env, "counting")], autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match=r"^vector_env: got autoreset mode"):
        Driver(same_step)
    with pytest.raises(ValueError, match=r"^seed: got -1"):
        Driver(make_vector_env("counting"), seed=-1)


def test_a_dead_worker_is_an_error_and_close_does_not_hang():
    running = Driver(make_vector_env("counting", 2, size=8))
    running.tick(uniform)
    processes = running._workers.processes
    processes[1].kill()
    processes[1].join()
    with pytest.raises(RuntimeError, match="an environment worker has died"):
        tick_twice(running)
    running.close()
    running.close()
    assert not any(process.is_alive() for process in processes)


def test_a_stuck_worker_is_an_error_and_close_kills_it(monkeypatch):
    monkeypatch.setattr(workers, "_CLOSE_SECONDS", 0.5)
    running = Driver(make_vector_env("counting", 2, size=8), timeout=0.5)
    processes = running._workers.processes
    running.tick(uniform)
    os.kill(processes[0].pid, signal.SIGSTOP)
    with pytest.raises(RuntimeError, match=r"gave no answer in 0\.5 s"):
        tick_twice(running)
    running.close()
    assert not any(process.is_alive() for process in processes)


def test_a_signal_to_the_whole_run_leaves_its_environments_alone():
    """torchrun sends SIGTERM to the process group of each of its processes: the parent alone handles it."""
    with Driver(make_vector_env("counting", 2, size=8)) as running:
        running.tick(uniform)
        processes = running._workers.processes
        assert all(os.getpgid(process.pid) == process.pid for process in processes)
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGTERM)
        running.tick(uniform)
        assert all(process.is_alive() for process in processes)  # which the server would have to deny if it had ended
        processes[0].terminate()  # what Python does with what is left at its exit
        processes[0].join(30)
        assert not processes[0].is_alive()
