"""Published scores: what the file holds, and which of them belong beside a run."""

import csv

import pytest

from agent.evaluation.references import REFERENCE_FILE, load_references, nearest_references, protocol_differences
from envs import task_names


def test_every_row_is_read_and_names_its_source():
    with REFERENCE_FILE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = load_references()
    assert len(found) == len(rows) > 400  # no key is there twice
    for (method, task, env_frames), reference in found.items():
        assert (reference.method, reference.task, reference.env_frames) == (method, task, env_frames)
        assert len(reference.source) > 10
        assert 0 <= reference.mean <= 1010  # one source is a plot, read to within 15
    assert {task for _, task, _ in found} - set(task_names()) == {"reach_duplo"}  # of dm_control's other suite


@pytest.mark.parametrize(("env_frames", "expected"), [(0, 50_000), (69_000, 50_000), (72_000, 100_000),
                                                      (100_008, 100_000), (10**8, 1_000_000)])  # fmt: skip
def test_the_nearest_budget_by_ratio(env_frames, expected):
    found = {reference.name: reference for reference in nearest_references("cartpole_swingup", env_frames)}
    assert set(found) == {"CURL", "DrQ", "PlaNet", "Dreamer", "DreamerV3", "DrQ-v2", "dreamerv3-torch"}
    assert found["DreamerV3"].env_frames == expected
    if expected == 100_000:
        assert found["DreamerV3"][3:7] == (614.5, 152.4, 10, 2)
        assert found["CURL"][3:7] == (582.0, 146.0, 10, 8)
        assert found["dreamerv3-torch"].std is None


def test_a_task_that_nobody_published_has_none():
    assert nearest_references("reaching", 1000) == []


def test_protocols_are_compared():
    score = load_references()["CURL [CURL paper table]", "cartpole_swingup", 100_000]
    assert protocol_differences(score, 8, 100_008) == []
    assert protocol_differences(score, 2, 100_000) == ["action repeat"]
    assert protocol_differences(score, 8, 120_000) == ["env_frames"]
    assert protocol_differences(score, 4, 0) == ["action repeat", "env_frames"]
