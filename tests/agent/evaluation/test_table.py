"""The printed figures, from results made by hand."""

import pytest

from agent.evaluation.episodes import Evaluation
from agent.evaluation.references import Reference
from agent.evaluation.table import evaluation_line, heading, latex_lines, reference_table

NAN = float("nan")
EPISODES = ("deterministic", 8, "fast", (0, 1), (600.0, 772.0), (125, 120), (1000, 960))
RESULT = Evaluation(686.0, 121.62, 600.4, 771.6, 680.25, 599.6, 772.4, 600.0, 772.0, "cartpole_swingup", *EPISODES)
ONE_EPISODE = ("random", 8, "fast", (0,), (5.0,), (125,), (1000,))
SINGLE = Evaluation(5.0, NAN, NAN, NAN, 5.0, NAN, NAN, 5.0, 5.0, "a_b", *ONE_EPISODE)
OURS = Reference("Alike [a table]", "cartpole_swingup", 100_000, 700.0, 12.5, 5, 8, "a source")
OTHER = Reference("Odd (authors)", "cartpole_swingup", 500_000, 845.3, None, None, 2, "a source")


def test_a_line_has_a_cell_for_each_heading():
    cells = [cell for cell in evaluation_line("deterministic", RESULT).split("  ") if cell.strip()]
    names = [name for name in heading().split("  ") if name.strip()]
    assert [name.strip() for name in names] == [
        "policy", "mean", "95 % interval", "std", "IQM", "its 95 % interval", "min", "max", "agent_steps"
    ]  # fmt: skip
    assert [cell.strip() for cell in cells] == [
        "deterministic", "686.00", "[600.40, 771.60]", "121.62", "680.25", "[599.60, 772.40]", "600.00", "772.00",
        "120 to 125",
    ]  # fmt: skip


def test_a_single_episode_leaves_cells_empty():
    assert evaluation_line("random", SINGLE).split() == ["random", "5.00", "5.00", "5.00", "5.00", "125"]
    assert evaluation_line("random", SINGLE).index("5.00") == evaluation_line("x", RESULT).index("686.00") + 2


def test_published_scores_say_how_their_protocol_differs():
    _, first, second = reference_table([OURS, OTHER], 8, 100_000).splitlines()
    assert first.split() == ["Alike", "700.00", "12.50", "5", "100,000", "8", "as", "ours"]
    assert second.split() == ["Odd", "845.30", "500,000", "2", "other", "action", "repeat", "and", "env_frames"]


def test_a_line_of_a_papers_table():
    results = {"deterministic": RESULT, "random": SINGLE}
    comment, line = latex_lines("cartpole_swingup", results, [OURS, OTHER], 8, 100_000)
    assert line == r"cartpole\_swingup & 686 [600, 772] & 5 & 700 & 845$^\dagger$ \\"
    assert comment.startswith("% task & deterministic & random & Alike at 100,000, repeat 8 & Odd at")
    assert comment.count("&") == line.count("&")


def test_small_returns_keep_a_decimal():
    assert latex_lines("a", {"random": SINGLE}, [], 1, 1)[1] == r"a & 5.0 \\"


@pytest.mark.parametrize("name", ["cartpole_swingup", "a & b_c"])
def test_names_are_escaped(name):
    line = latex_lines(name, {}, [], 1, 1)[1]
    assert line.removesuffix(r" \\").replace(r"\_", "_").replace(r"\&", "&") == name
    assert line.count("_") == line.count(r"\_")
