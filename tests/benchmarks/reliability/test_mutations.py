"""A damaged file of every kind, as mutations.py makes a thousand: none is swallowed, none breaks a run."""

import shutil
from collections import Counter

import pytest
import torch
import yaml

from agent.run_folder.checkpoint import load_checkpoint, write_checkpoint
from benchmarks.reliability import mutations
from tests.faults.golden_run import tamper, unpack

CASES = 31  # every mutation of every kind of file once


@pytest.mark.slow
def test_every_kind_of_damage(tmp_path):
    path = unpack(tmp_path / "run")
    older = load_checkpoint(path)
    older["counters"]["updates"] = older["agent"]["updates"] = 0
    older["agent"]["model"]["teacher.layers.0.bias"] += 1
    write_checkpoint(path.with_name("000000000.pt"), older)
    (tmp_path / "run" / "metrics.jsonl").write_text('{"env_frames": 70, "updates": 1}\n')
    unpack(tmp_path / "other")
    tamper(tmp_path / "other", lambda payload: payload["config"].update(seed=1))
    settings = yaml.safe_load((tmp_path / "other" / "config.yaml").read_text())
    (tmp_path / "other" / "config.yaml").write_text(yaml.safe_dump(settings | {"seed": 1}))
    shutil.copy(tmp_path / "run" / "metrics.jsonl", tmp_path / "other")
    for number, other in ((0, 1), (1, 0)):
        source = tmp_path / "run" / "episodes" / f"{other:08d}-26.ep"
        shutil.copy(source, tmp_path / "other" / "episodes" / f"{number:08d}-26.ep")
    state = torch.get_rng_state()
    cases = list(mutations.open_damaged(tmp_path / "run", tmp_path / "other", tmp_path / "case", CASES, seed=7))
    torch.set_rng_state(state)
    assert [case for case in cases if "BAD" in case.outcomes] == []
    outcomes = Counter(outcome for case in cases for outcome in case.outcomes)
    assert len(cases) == CASES
    assert all(outcomes[kind] > 1 for kind in ("error", "told", "harmless"))
