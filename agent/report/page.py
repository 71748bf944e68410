"""The page: sections in their order, in one file of HTML that needs no network."""

from collections.abc import Callable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from agent.learning.agent import Agent
from agent.report import lenses, sections
from agent.report.gather import ReportData, gather
from replay.writing import write_whole

PARTS = {
    "returns": "Returns",
    "watch": "Watch it",
    "dreams": "Dreams",
    "model": "Report card",
    "components": "Components",
    "tokens": "Tokens",
    "slots": "Slots",
    "gradients": "Gradients",
    "health": "Health",
    "cost": "Cost",
}


def write_report(
    agent: Agent,
    logdir: Path,
    path: Path,
    episodes: int = 8,
    seed: int = 500_000,
    tell: Callable[[str], None] = lambda _: None,
) -> int:
    """Write a run's page to `path`, which appears when it is complete; return its size in bytes. Errors: `gather`."""
    page = render(gather(agent, logdir, episodes, seed, tell)).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return len(page)


def render(data: ReportData) -> str:
    """Return the page as HTML."""
    body = [
        sections.returns(data.run),
        sections.player(data),
        sections.dreams(data),
        sections.card(data),
        lenses.components(data),
        lenses.codebook(data),
        lenses.slots(data),
        lenses.gradients(data.run),
        lenses.health(data.run),
        lenses.cost(data.run),
    ]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title in PARTS.items())
    return Template(_asset("page.html")).substitute(
        title=escape(f"{data.run.config.task}, seed {data.run.config.seed}: AIME run report"),
        style=_asset("page.css"),
        script=_asset("page.js"),
        task=escape(data.run.config.task),
        sentence=sections.sentence(data.run),
        tiles=sections.tiles(data),
        links=links,
        body="\n".join(body),
    )


def _asset(name: str) -> str:
    return files("agent.report").joinpath("assets", name).read_text(encoding="utf-8")
