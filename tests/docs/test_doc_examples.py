"""The Python examples of README and docs run as they are written, and those that train make updates."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from agent import Agent

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES.remove(ROOT / "docs" / "extending.md")  # its recipes have a test of their own
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

    def acting(self, images, is_first, state, mode):
        if self.updates <= REAL_UPDATES:
            return act(self, images, is_first, state, mode)
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
