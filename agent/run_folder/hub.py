"""Agents on the Hugging Face Hub: downloading and uploading their files, with the model card that the Hub reads.

Importing this module does not import huggingface_hub, which is optional.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.packages import check_installed
from envs.wording import one_line

if TYPE_CHECKING:
    from agent.run_folder.agent_file import Card

FILE = "agent.aime"  # in every repository
REQUIREMENT = "'huggingface_hub>=2,<3'"


def _library() -> Any:
    """Import huggingface_hub. A one-line ValueError if it is not installed."""
    check_installed("huggingface_hub", "hub", REQUIREMENT)
    import_module("huggingface_hub.utils.logging")  # an attribute only once it is imported; that sets the log's level
    return import_module("huggingface_hub")


@contextmanager
def _reported(line: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """Turn the errors of a hub that does not answer, or does not have or allow what was asked for, into one line.

    What the library logs meanwhile, a line for each of its five trials, is not shown.
    """
    errors, logger = import_module("huggingface_hub.errors"), logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except (OSError, ValueError, errors.HTTPError, errors.EntryNotFoundError) as error:
        raise kind(f"{line} ({one_line(error, 160)})") from None
    finally:
        logger.setLevel(level)


def fetch(name: str) -> Path:
    """Return the local copy of an agent's file, downloaded if need be. A one-line ValueError if that fails."""
    library = _library()
    with _reported(f"agent: got 'hub:{name}', expected the user/name of an agent on the Hub"):
        return Path(library.hf_hub_download(repo_id=name, filename=FILE))


def check_login(name: str) -> None:
    """Raise a one-line ValueError unless the Hub answers, knows the user, and `name` can be a repository's."""
    library = _library()
    with _reported(f"hub: got '{name}', expected user/name and a login"):
        library.utils.validate_repo_id(name)
        if name.count("/") != 1:
            raise ValueError("a repository has the name of its user or organisation before it")
        library.HfApi().whoami()


def publish(name: str, content: bytes, card: "Card", is_private: bool) -> str:
    """Upload an agent's file and its model card in one commit, creating the repository; return its address.

    ConnectionError, in one line, if that fails.
    """
    library = _library()
    files = {FILE: content, "README.md": model_card(name, card).encode()}
    added = [library.CommitOperationAdd(path_in_repo=path, path_or_fileobj=data) for path, data in files.items()]
    with _reported(f"hub: '{name}' could not be written", ConnectionError):
        api = library.HfApi()
        address = str(api.create_repo(name, private=is_private, exist_ok=True))
        api.create_commit(repo_id=name, operations=added, commit_message=f"An agent for {card.config['task']}")
    return address


def model_card(name: str, card: "Card") -> str:
    """Return the README.md of an agent's repository, with the metadata and the metrics block of the Hub's format."""
    library, task = _library(), card.config["task"]
    results = []
    if card.evaluation is not None:
        scores = card.evaluation["deterministic"]
        std = "" if scores["std"] is None else f" +/- {scores['std']:.2f}"
        results.append(
            library.EvalResult(
                task_type="reinforcement-learning",
                task_name="reinforcement-learning",
                dataset_type=task,
                dataset_name=task,
                metric_type="mean_reward",
                metric_name=f"mean return of {len(scores['returns'])} deterministic episodes",
                metric_value=f"{scores['mean']:.2f}{std}",
            )
        )
    data = library.ModelCardData(
        library_name="aime-rl",
        pipeline_tag="reinforcement-learning",
        tags=["reinforcement-learning", "world-model", "model-based-rl", task],
        model_name=name.rpartition("/")[2],
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_text(name, card)}"


def _text(name: str, card: "Card") -> str:
    config, lines = card.config, []
    if card.evaluation is not None:
        for mode, scores in card.evaluation.items():
            low, high = scores["interval_low"], scores["interval_high"]
            interval = "" if low is None or high is None else f" [{low:.1f}, {high:.1f}]"
            lines.append(f"| {mode} | {scores['mean']:.1f}{interval} | {len(scores['returns'])} |")
        lines = ["| actions | mean return [95 % interval] | episodes |", "|---|---|---|", *lines, ""]
    repeat, render = config["env"]["action_repeat"], config["env"]["render"]
    return "\n".join(
        [
            f"# {name.rpartition('/')[2]}",
            "",
            f"An agent for `{config['task']}` that learned a world model from pixels, and its behaviour in that "
            f"model's dreams: {card.env_frames:,} env_frames, {card.updates:,} updates, seed {config['seed']}, action "
            f"repeat {repeat}, `{render}` rendering, preset `{config['preset']}`, aime-rl {card.version}"
            f"{'' if card.commit is None else f', commit {card.commit}'}.",
            "",
            *lines,
            "```bash",
            f"python run_agent.py evaluate --agent hub:{name}",
            f"python run_agent.py record --agent hub:{name} --dream",
            "```",
            "",
            "```python",
            "from agent import load",
            "",
            f'agent = load("hub:{name}")',
            "```",
            "",
            f"All settings are in the metadata of `{FILE}`, a safetensors file.",
            "",
        ]
    )
