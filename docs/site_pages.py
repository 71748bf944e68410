"""The hook of mkdocs.yml that decides which pages the site has.

The site has the repository's paths, docs/ included, so that a link that works on the repository's host works there too.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "world_model/*/README.md",
    "multi_task_learning/README.md",
    "examples/*",
)
# Public names, page by page; docstrings are what the reference says about them.
REFERENCE = {
    "agent": [
        *("agent.load", "agent.Agent", "agent.make_config", "agent.Config", "agent.Trainer", "agent.AIME"),
        *("agent.evaluation.evaluate", "agent.evaluation.random_evaluation"),
        *("agent.video.record", "agent.video.record_dream", "agent.video.record_imagination"),
    ],
    "world_model": [
        *("world_model.DPGMMVariationalRecurrentAutoencoder", "world_model.config.WorldModelConfig"),
    ],
    "envs": [
        *("envs.make_env", "envs.make_vector_env", "envs.task_names"),
        *("envs.GymPixels", "envs.Driver", "envs.Step", "envs.VideoWriter"),
    ],
    "replay": [
        *("replay.ReplayBuffer", "replay.Chunk", "replay.EpisodeStore", "replay.Episode"),
        *("replay.check_budget", "replay.ReplayBudgetError", "replay.row_bytes"),
    ],
    "multi_task_learning": [
        *("multi_task_learning.LossAggregator", "multi_task_learning.RGB", "multi_task_learning.RGBAggregator"),
        *("multi_task_learning.BalancedSum", "multi_task_learning.task_names"),
    ],
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Place docs/ at its path in the repository, and add the pages outside of it and the reference."""
    docs = [file for file in files if file.src_dir == config.docs_dir]
    paths = [f"docs/{file.src_uri}" for file in docs if file.inclusion.is_included()]
    paths += sorted(str(path.relative_to(ROOT)) for pattern in OUTSIDE for path in ROOT.glob(pattern) if path.is_file())
    pages = [File(path, str(ROOT), config.site_dir, config.use_directory_urls) for path in paths]
    pages += [File.generated(config, f"reference/{name}.md", content=reference_page(name)) for name in REFERENCE]
    return Files([*(file for file in files if file not in docs), *pages])


def reference_page(package: str) -> str:
    """Return the Markdown of a package's reference page."""
    return "\n".join([f"# {package}\n", *(f"::: {name}\n" for name in REFERENCE[package])])
