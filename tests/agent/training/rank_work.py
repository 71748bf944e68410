"""What two ranks do in processes of their own, for test_ranks.py; each stores what it found in `<folder>/<rank>.pt`."""

import os
import signal
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import multiprocessing

from agent import Agent, Trainer, make_config
from agent.commands import train
from agent.learning.errors import NotFinite
from agent.training.ranks import RankFailed, Ranks, join
from tests.agent.learning.small_agent import make_agent, make_chunk

METHODS = ("rgb", "balanced", "sum")
WHOLE = {  # losses of every frame, so that one process with all rows and two with half of them compute the same
    "world_model__decoder_config__train_fraction": 1.0,
    "world_model__overshoot": 3,
    "behavior__target_std": 0.4,
    "behavior__replay_value": 0.3,
    "optimizer__model_lr": 0.0,  # Adam's first step is the sign of a gradient: its rounding would change the dreams
    "world_model__rgb_config__every": 1,
}
# Episodes of 26 rows on each rank, an evaluation on the way, then as many updates again
SETTINGS = {"env_frames": 124, "replay.prefill_frames": 80, "replay.capacity_steps": 90, "train.train_ratio": 6}
SETTINGS |= {"train.eval_every": 100, "train.eval_episodes": 1, "train.video_frames": 0, "train.log_every": 3}
SETTINGS |= {"env.num_envs": 1}


def start_two(folder: Path) -> list[dict[str, Any]]:
    """Run `_work` on two ranks; return what each found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_work, (port, folder), nprocs=2)
    return [torch.load(folder / f"{index}.pt", weights_only=False) for index in range(2)]


def _work(index: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(index), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["OMP_NUM_THREADS"] = "1"  # as torchrun does
    torch.set_num_threads(1)
    ranks = join(60)
    found: dict[str, Any] = {"gradients": {method: _gradients(ranks, method) for method in METHODS}}
    found |= {"skipped": _skip(ranks), "replica": _learn(ranks), "errors": _errors(ranks)}
    found["differing"] = _differ(ranks, folder / "differing")
    found["straight"] = _train(ranks, folder / "straight")
    found["stopped"] = _train(ranks, folder / "stopped", stop_at=9)
    found["resumed"] = _train(ranks, folder / "stopped", resume=True)
    ranks.leave()
    found["threads"] = sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
    torch.save(found, folder / f"{index}.pt")


@contextmanager
def _no_chance():
    """All noise at its middle."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("randn", 0.0), ("rand", 0.5)):
            make = getattr(torch, name)
            patch.setattr(torch, name, lambda *sizes, make=make, value=value, **settings: make(*sizes).fill_(value))
        yield


def _known(agent: Agent) -> Agent:
    """The codes are drawn from the first batch; here they are those of the start."""
    assert agent.model.perceiver is not None
    agent.model.perceiver.tokenizer.quantizer.is_initialised.fill_(True)
    return agent


def _gradients(ranks: Ranks, method: str) -> dict[str, Any]:
    """Gradients and statistics of one update on four chunks: two per rank, and all four in one process."""
    chunk = make_chunk(4, 8)
    resets = torch.zeros(4, 8, dtype=torch.bool)
    resets[0, 3] = resets[1, 2] = resets[1, 5] = resets[3, 6] = True  # unevenly
    chunk = chunk._replace(is_first=resets)
    mine = chunk.map(lambda field: field[2 * ranks.index : 2 * ranks.index + 2])
    found = {}
    with _no_chance():
        for name, rows in (("shared", mine), ("whole", chunk)):
            agent = _known(make_agent(**WHOLE, world_model__rgb_config__method=method))
            if name == "shared":
                with ranks.shared_batch():
                    agent.update(rows)
            else:
                agent.update(rows)
            gradients = {key: weight.grad for key, weight in agent.named_weights() if weight.grad is not None}
            buffers = {**dict(agent.model.named_buffers()), **dict(agent.actor_critic.named_buffers())}
            found[name] = {"gradients": gradients, "buffers": buffers, "weights": dict(agent.named_weights())}
    return found


def _skip(ranks: Ranks) -> dict[str, Any]:
    """An update in which the second rank alone meets a reward that is not finite."""
    agent, chunk = make_agent(), make_chunk(2, 8)
    before = {name: weight.detach().clone() for name, weight in agent.named_weights()}
    if ranks.index == 1:
        chunk = chunk._replace(reward=torch.full_like(chunk.reward, torch.nan))
    with ranks.shared_batch():
        metrics = agent.update(chunk, behavior=False)
    changed = [name for name, weight in agent.named_weights() if not torch.equal(weight, before[name])]
    return {"skipped": metrics["rgb_skipped"].item(), "changed": changed}


def _learn(ranks: Ranks) -> dict[str, Any]:
    """The state after some updates on other chunks and with other noise than the other rank's."""
    agent = make_agent(optimizer__matrix_lr=1e-3, behavior__exploration="noise")
    agent.seed_generators(ranks.index)
    for step in range(4):
        chunk = make_chunk(2, 8)
        chunk = chunk._replace(image=chunk.image // (1 + ranks.index), reward=chunk.reward * (step + ranks.index))
        with ranks.shared_batch():
            agent.update(chunk)
    state = agent.state_dict()
    del state["generators"]
    return state


def _errors(ranks: Ranks) -> list[str]:
    """What each rank gets when the second one has an error."""
    told = []
    for error in (ValueError("no room"), NotFinite("the actions are not finite")):
        try:
            with ranks.together():
                if ranks.index == 1:
                    raise error
        except Exception as got:
            told.append(f"{type(got).__name__}: {got}")
    with ranks.together():
        pass
    return told


def _differ(ranks: Ranks, logdir: Path) -> str:
    """What each rank gets when the second one was given another seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "join", lambda: ranks)
        try:
            train.prepare(["--preset", "debug", "--logdir", str(logdir), "--seed", str(ranks.index)])
        except (ValueError, SystemExit) as error:
            return f"{type(error).__name__}: {error}"
    return "nothing"


def _train(ranks: Ranks, logdir: Path, resume: bool = False, stop_at: int | None = None) -> dict[str, Any]:
    """Train; where `stop_at` is given, a SIGTERM comes to the second rank alone with that update."""
    config = make_config("debug", "reaching", SETTINGS)
    trainer = Trainer(config, logdir, resume=resume, quiet=True, ranks=ranks)
    update = trainer.guard.update

    def watched(agent, chunk):
        if agent.updates + 1 == stop_at and ranks.index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(agent, chunk)

    trainer.guard.update = watched
    trainer.run()
    rows = len(trainer.replay) + trainer.replay.num_staged
    return {"reason": trainer.stop_reason, "rows": rows, "drift": _drift(trainer), **trainer.counters()}


def _drift(trainer: Trainer) -> str:
    """What each rank gets when a weight of the second one is off by the last bit."""
    trainer._check_replicas()
    _, weight = next(trainer.agent.named_weights())
    if trainer.ranks.index == 1:
        weight.data.view(-1)[0].nextafter_(torch.tensor(torch.inf))
    with pytest.raises(RankFailed, match="no longer equal") as error:
        trainer._check_replicas()
    return type(error.value).__name__
