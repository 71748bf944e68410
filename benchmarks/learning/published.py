"""Which published scores stand beside our runs: a column for each method, and only scores of the same action repeat."""

from agent.evaluation.references import Reference, load_references
from benchmarks.learning.results import Result

DREAMER_V3 = "DreamerV3 (JAX, authors, 2024/Nature-2025 scores)"
ORIENTATION = "DreamerV3 (repeat 2, orientation)"  # shown whatever our action repeat; the others only at their own
REPEAT_PLANET = (
    "CURL [CURL paper table]",
    "PlaNet [CURL paper table]",
    "Dreamer (v1) [CURL paper table]",
    "DrQ (PlaNet benchmark, batch 512)",
)
REPEAT_2 = ("DrQ-v2", "TD-MPC2 (pixels, authors)", "dreamerv3-torch (NM512)")
# Column -> method of agent/evaluation/reference_scores.csv
PLANET_COLUMNS = {name: name for name in REPEAT_PLANET} | {ORIENTATION: DREAMER_V3}
COLUMNS = {"DreamerV3": DREAMER_V3} | {name: name for name in REPEAT_2}


def reference_columns(preset: str) -> dict[str, str]:
    """Column -> method of agent/evaluation/reference_scores.csv, for the action repeats of a preset."""
    return PLANET_COLUMNS if preset == "cpu" else COLUMNS


def reference_score(column: str, method: str, runs: list[Result], at: int) -> Reference | None:
    """The published score beside runs of one task; None where there is none of the same action repeat."""
    score = load_references().get((method, runs[0]["task"], at))
    repeats = {result["config"]["env"]["action_repeat"] for result in runs if result["config"]}
    return score if score is not None and (column == ORIENTATION or repeats == {score.action_repeat}) else None
