"""One side of peers.py: builds an agent, then makes updates on request, speaking JSON lines.

    PYTHON peer_update.py aime|r2dreamer|dreamerv3-torch '{"batch": 8, "length": 16, ...}'

The first line of stdout describes what was built; then every line of stdin is answered by one {"seconds": ...}. What
the agent itself prints goes to stderr. It runs in the interpreter and the import path that its own code needs, so
nothing of this repository is imported for a peer, and nothing of a peer is in this repository. Every side sees the
same kind of chunk, in its own layout: noise, one episode per row, an action of six numbers. What is timed is the
agent's own update on a chunk that is in memory: world model, actor and critic, without replay and environments.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

ACTIONS = 6  # as of walker_walk
Update = Callable[[], Any]
Built = tuple[Update, int, dict[str, Any]]  # one update, trainable parameters, what was configured


def random_chunk(batch: int, length: int) -> dict[str, np.ndarray]:
    """A chunk in numpy: image uint8 [B, T, 64, 64, 3], action float32 [B, T, A] in [-1, 1], the others [B, T]."""
    draw, shape = np.random.default_rng(0), (batch, length)
    first = np.zeros(shape, bool)
    first[:, 0] = True
    return {
        "image": draw.integers(0, 256, (*shape, 64, 64, 3), np.uint8),
        "action": draw.uniform(-1, 1, (*shape, ACTIONS)).astype(np.float32),
        "reward": draw.uniform(0, 1, shape).astype(np.float32),
        "is_first": first,
        "is_last": np.zeros(shape, bool),
        "is_terminal": np.zeros(shape, bool),
    }


def count(*modules: torch.nn.Module) -> int:
    """Parameters of these modules, each counted once."""
    return sum({id(p): p.numel() for module in modules for p in module.parameters()}.values())


def build_aime(task: dict[str, Any]) -> Built:
    """Our agent: `Agent.update` of a preset at a size, under the task's overrides."""
    from agent.config.presets import make_config
    from agent.learning.agent import Agent
    from replay import Chunk

    config = make_config(task["preset"], "walker_walk", {"size": task["size"]} | task["overrides"])
    agent = Agent(config, ACTIONS, task["device"])
    if task["compile"]:
        agent.compile()
    chunk = Chunk(**{name: torch.from_numpy(x) for name, x in random_chunk(task["batch"], task["length"]).items()})
    configuration = {key: task[key] for key in ("preset", "size", "compile")} | task["overrides"]
    return partial(agent.update, chunk.to(agent.device)), agent.num_parameters, configuration


def build_r2dreamer(task: dict[str, Any]) -> Built:
    """`Dreamer.update` of NM512/r2dreamer with `model.rep_loss=dreamer`, on a replay that hands out the same chunk.

    Its fp16 autocast, which it always trains in, is off on a CPU: few have instructions for it.
    """
    import dreamer
    from hydra import compose, initialize_config_dir
    from tensordict import TensorDict

    on_gpu = task["device"] == "cuda"
    wanted = ["model=size12M", "model.rep_loss=dreamer", f"model.compile={task['compile']}"]
    wanted += [f"device={task['device']}", f"batch_size={task['batch']}", f"batch_length={task['length']}"]
    with initialize_config_dir(str(Path(task["checkout"], "configs")), version_base=None):
        config = compose("configs", overrides=wanted).model
    if not on_gpu:
        dreamer.autocast = partial(torch.autocast, enabled=False)
    spaces = SimpleNamespace(spaces={"image": np.zeros((64, 64, 3), np.uint8)})
    agent = dreamer.Dreamer(config, spaces, SimpleNamespace(shape=(ACTIONS,))).to(task["device"])
    tensors = {name: torch.from_numpy(x) for name, x in random_chunk(task["batch"], task["length"]).items()}
    tensors = {name: x if x.ndim > 2 else x.unsqueeze(-1) for name, x in tensors.items()}  # [B, T, 1]
    chunk = TensorDict(tensors, (task["batch"], task["length"])).to(task["device"])
    start = agent.rssm.initial(task["batch"])
    replay = SimpleNamespace(sample=lambda: (chunk.clone(), None, start), update=lambda *_: None)
    trained = sum(p.numel() for p in agent._named_params.values())
    return partial(agent.update, replay), trained, {"overrides": wanted, "fp16": on_gpu}


def build_dreamerv3(task: dict[str, Any]) -> Built:
    """What `Dreamer._train` of NM512/dreamerv3-torch does with a batch, under its `dmc_vision` configuration.

    Its `compile` is left out: it wraps the modules' `forward`, which an update never calls.
    """
    import models
    from ruamel.yaml import YAML

    def joined(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        both = [name for name in changes if isinstance(changes[name], dict) and name in base]
        return base | changes | {name: joined(base[name], changes[name]) for name in both}

    blocks = YAML(typ="safe", pure=True).load(Path(task["checkout"], "configs.yaml").read_text(encoding="utf-8"))
    sizes = {"device": task["device"], "batch_size": task["batch"], "batch_length": task["length"]}
    config = SimpleNamespace(**joined(blocks["defaults"], blocks["dmc_vision"]), num_actions=ACTIONS)
    vars(config).update(sizes)
    spaces = SimpleNamespace(spaces={"image": np.zeros((64, 64, 3), np.uint8)})
    model = models.WorldModel(spaces, None, 0, config).to(task["device"])
    behavior = models.ImagBehavior(config, model).to(task["device"])
    trained = count(model, behavior.actor, behavior.value)
    for module in (model, behavior):
        module.requires_grad_(False)  # its optimizer calls switch gradients on for what they train
    chunk = random_chunk(task["batch"], task["length"])

    def reward(features: Any, state: Any, action: Any) -> torch.Tensor:
        return model.heads["reward"](model.dynamics.get_feat(state)).mode()

    def update() -> None:
        posterior, _, _ = model._train(chunk)
        behavior._train(posterior, reward)

    return update, trained, {"configs": ["defaults", "dmc_vision"], "precision": config.precision}


BUILDERS: dict[str, Callable[[dict[str, Any]], Built]] = {
    "aime": build_aime,
    "r2dreamer": build_r2dreamer,
    "dreamerv3-torch": build_dreamerv3,
}


def versions() -> dict[str, str]:
    """Python, and the libraries whose speed this is."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("tensordict", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def serve(side: str, task: dict[str, Any], requests: Iterator[str], answer: Callable[[dict[str, Any]], None]) -> None:
    """Build the side, describe it, then answer every request with the mean seconds of `task["updates"]` updates."""
    torch.set_num_threads(task["threads"])
    torch.manual_seed(0)
    update, parameters, configuration = BUILDERS[side](task)
    answer({"parameters": parameters, "configuration": configuration, "versions": versions()})
    for _ in requests:
        start = time.perf_counter()
        for _ in range(task["updates"]):
            update()
        if task["device"] == "cuda":
            torch.cuda.synchronize()
        answer({"seconds": (time.perf_counter() - start) / task["updates"]})


def main() -> None:
    """Speak on the stdout we were given; what is printed on the way goes to stderr."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    task = json.loads(sys.argv[2])
    sys.path[0] = task["checkout"]  # instead of this file's folder

    def answer(line: dict[str, Any]) -> None:
        print(json.dumps(line), file=pipe, flush=True)

    serve(sys.argv[1], task, iter(sys.stdin.readline, ""), answer)


if __name__ == "__main__":
    main()
