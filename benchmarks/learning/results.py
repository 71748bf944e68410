"""Result files of learning runs: what each holds, and the arms that they are of."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path("benchmarks/results/learning")
HELD_OUT_SEED = 500_000  # of the first of the episodes that trained agents are judged on
Result = dict[str, Any]
ARMS: dict[str, dict[str, str]] = {
    "aime": {},
    "plain": {  # the control of the whole: none of the pillars but the LSTM
        "world_model.max_components": "1",
        "world_model.perceiver_config.enabled": "false",
        "world_model.attention_config.enabled": "false",
        "world_model.use_rgb": "false",
    },
    "sum": {"world_model.use_rgb": "false"},
    "k1": {"world_model.max_components": "1"},
    "perceiver": {"world_model.perceiver_config.enabled": "true"},
    "no_perceiver": {"world_model.perceiver_config.enabled": "false"},
    "attention": {"world_model.attention_config.enabled": "true"},
    "no_attention": {"world_model.attention_config.enabled": "false"},
    "teacher": {"world_model.context_mode": "teacher", "world_model.perceiver_config.enabled": "true"},
    "no_orthogonal": {"world_model.use_orthogonal": "false"},
    "dynamics": {"behavior.gradient": "dynamics"},
    "reinforce": {"behavior.gradient": "reinforce"},
    "sac": {"algo": "sac"},
}
KEYS = {
    "task",
    "preset",
    "name",
    "arm",
    "overrides",
    "seed",
    "config",
    "machine",
    "status",
    "stages",
    "training",
    "evaluations",
}


def load_result(path: Path) -> Result:
    """A run's file. ValueError in one line where it is not one."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"results: '{path}' cannot be read ({error})") from None
    if not isinstance(result, dict) or not result.keys() >= KEYS:
        raise ValueError(f"results: '{path}' is not a file of benchmarks.learning.runs")
    if result["arm"] not in ARMS:
        raise ValueError(f"results: '{path}' has the arm '{result['arm']}', expected one of {', '.join(ARMS)}")
    return result


def rank(result: Result) -> tuple[int, int]:
    """Sort configurations by this: in the order of arms; fewer overrides come first."""
    return list(ARMS).index(result["arm"]), len(result["overrides"])
