"""Pages that do not rot: links lead somewhere, commands name commands and options that exist."""

import io
import re
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest

from agent.commands.parser import config_keys, planner_settings
from run_agent import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("world_model", "multi_task_learning")
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs").glob("*.md"),
    *(p for name in PACKAGES for p in (ROOT / name).rglob("*.md")),
]
PLACEHOLDERS = {"any.key"}


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def anchors(page: Path) -> set[str]:
    """What `page.md#...` may name: headings, small, without punctuation, dashes for spaces."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target, _, anchor in re.findall(r"\]\(([^)#\s]*)(#([^)]*))?\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"


@cache
def known_options(command: str) -> set[str]:
    with redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit):
        main([command, "--help"])
    options = set(re.findall(r"--([a-z][\w-]*)", shown.getvalue()))
    if command in ("train", "sweep"):
        return options | {*config_keys(), *PLACEHOLDERS}
    return options | {*planner_settings()} if "planner" in options else options


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_commands_and_their_options_exist(page):
    for command, rest in re.findall(r"run_agent\.py +([a-z][\w-]*)([^`|#\n]*)", page.read_text()):
        assert command in COMMANDS
        for option in re.findall(r"--([a-z][\w.-]*)", rest):
            assert option in known_options(command), f"{command} --{option}"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_settings_that_are_named_in_full_exist(page):
    """`losses.beta`, `world_model.prior_config.unimix`: a renamed key has to be renamed here too."""
    blocks = {key.rpartition(".")[0] for key in config_keys() if "." in key}
    suffix = r"(?!py\b|md\b|json\b|csv\b)"
    for block, key in re.findall(rf"`(?:--)?([a-z_.]+)\.{suffix}([a-z_]+)(?= [^`]*`|`)", page.read_text()):
        if block in blocks:
            assert f"{block}.{key}" in config_keys() or f"{block}.{key}" in blocks
