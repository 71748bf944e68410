"""What a checkpoint takes from a run, and how a run becomes that again."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from agent.config.settings import Config
from agent.run_folder.random_state import global_random_state, restore_global_random_state
from agent.training.due_work import update_ratio

if TYPE_CHECKING:
    from agent.training.trainer import Trainer


def take_snapshot(run: "Trainer") -> dict[str, Any]:
    """All that the rest of a run depends on: tensors and plain values."""
    return {
        "config": asdict(run.config),
        "counters": run.counters(),
        "agent": run.agent.state_dict(),
        "replay": run.replay.state_dict(),
        "collector": run.collector.state_dict(),
        "due": {"updates": run.owed, "evaluation": run.evaluation_due, "evaluated_at": run.evaluated_at},
        "ratio": run.ratio.state_dict(),
        "evaluate_clock": run.evaluate_clock.state_dict(),
        "guard": run.guard.state_dict(),
        "health": run.health.state_dict(),
        "means": run.means.state_dict(),
        "random": global_random_state(),
    }


def restore_snapshot(run: "Trainer", payload: dict[str, Any]) -> None:
    """Make a fresh run the one that the payload is of; episodes that ended after the checkpoint are dropped."""
    run.agent.load_state_dict(payload["agent"])
    run.collector.load_state_dict(payload["collector"], run.agent)
    run.store.remove_newer(payload["replay"]["last_number"])
    run.replay.load_state_dict(payload["replay"])
    run.replay.restore(run.store)
    run.ratio.load_state_dict(payload["ratio"])
    run.evaluate_clock.load_state_dict(payload["evaluate_clock"])
    run.guard.load_state_dict(payload["guard"])
    run.health.load_state_dict(payload["health"])
    run.means.load_state_dict(payload["means"], run.agent.device)
    due = payload["due"]
    run.owed, run.evaluation_due, run.evaluated_at = due["updates"], due["evaluation"], due["evaluated_at"]
    rescale_updates(run, payload["config"]["replay"]["batch_size"])
    if more := _later_updates(payload, run.config):
        run.owed, run.evaluation_due, run.evaluated_at = run.owed + more, True, -1
    restore_global_random_state(payload["random"])


def is_over(payload: dict[str, Any], config: Config) -> bool:
    """Whether a run that goes on with `config` from this checkpoint has nothing left to do."""
    is_spent = payload["counters"]["env_frames"] >= config.env_frames
    due = payload["due"]
    return is_spent and not due["updates"] and not due["evaluation"] and not _later_updates(payload, config)


def _later_updates(payload: dict[str, Any], config: Config) -> int:
    """Final updates that were asked for when the budget's last frame had come already."""
    if config.algo != "aime" or payload["counters"]["env_frames"] < config.env_frames:
        return 0
    before = payload["config"]["train"].get("final_updates", 0)  # a run of before they were there
    return max(0, config.train.final_updates - before)


def rescale_updates(run: "Trainer", old_size: int) -> None:
    """Owe the same frames where updates were of another batch size."""
    size = run.config.replay.batch_size
    if size != old_size:
        run.owed = round(run.owed * old_size / size)
        run.ratio = update_ratio(run.config)
        run.ratio.skip(run.collector.agent_steps)
