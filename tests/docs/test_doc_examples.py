"""The Python examples of README and docs run as they are written, and those that train make updates."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agent import Agent

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOUR = ROOT / "docs" / "tour.md"
for page in (TOUR, ROOT / "docs" / "extending.md"):
    PAGES.remove(page)  # these have tests of their own
EXAMPLES = {
    f"{page.relative_to(ROOT)}:{index}": text
    for page in PAGES
    for index, text in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))
}
SHORTER = {"range(1000)": "range(2)", "episodes=20": "episodes=2"}  # the same statements, fewer times
REAL_UPDATES = 2  # of each agent; the others are only counted, and after them it acts without thinking


@pytest.fixture
def updates(monkeypatch):
    """Updates of every learn() that was called."""
    from agent import AIME

    found, update, act, learn = [], Agent.update, Agent.act, AIME.learn

    def counted(self, chunk, behavior=True):
        if self.updates < REAL_UPDATES:
            return update(self, chunk, behavior)
        self.updates += 1
        return {}

    def acting(self, images, is_first, state, mode, vectors=None):
        if self.updates <= REAL_UPDATES:
            return act(self, images, is_first, state, mode, vectors)
        return np.zeros((len(images), self.action_dim), np.float32), state

    def watched(self, *arguments, **options):
        before = self.agent.updates
        learned = learn(self, *arguments, **options)
        found.append(self.agent.updates - before)
        return learned

    monkeypatch.setattr(Agent, "update", counted)
    monkeypatch.setattr(Agent, "act", acting)
    monkeypatch.setattr(AIME, "learn", watched)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the tests' own number stays
    return found


def test_examples_are_found():
    assert {"README.md:2", "docs/sb3.md:2", "docs/videos.md:0"} <= set(EXAMPLES)


@pytest.mark.filterwarnings("ignore:rich is experimental")  # Stable-Baselines3 ignores it, pytest does not
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_and_learns(name, run_copy, updates, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for folder in ("demo", "first"):
        (tmp_path / "runs" / folder).symlink_to(run_copy)
    text = EXAMPLES[name]
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    exec(compile(text, name, "exec"), {"__name__": "example"})
    assert len(updates) == len(re.findall(r"\.learn\(", text))
    assert all(count > 0 for count in updates), updates


def test_the_tour_is_one_session_and_prints_what_stands_below_its_blocks(tmp_path, monkeypatch):
    """Numbers may differ, from processor to processor; how many there are, and the words around them, may not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # the tests' own number stays
    block = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)
    blocks = block.findall(TOUR.read_text())
    assert len(blocks) == 9
    session: dict[str, object] = {"__name__": "example"}
    with torch.enable_grad():  # the tour switches gradients off and on
        for index, (code, expected) in enumerate(blocks):
            assert not re.search(r"^ .*\n[^\s)]", code, re.MULTILINE), "a prompt needs a blank line after a block"
            with redirect_stdout(io.StringIO()) as shown:
                exec(compile(code, f"{TOUR.name}:{index}", "exec"), session)
            assert _without_digits(shown.getvalue()) == _without_digits(expected)
    with Image.open(tmp_path / "tour.png") as strip:
        assert strip.size == (7 * 64, 3 * 64)
    assert (tmp_path / "runs" / "tour" / "report.html").stat().st_size > 100_000


def _without_digits(text: str) -> list[str]:
    return [re.sub(r"[-\s]*\d[\d.,]*\s*", "#", line).strip() for line in text.splitlines()]
