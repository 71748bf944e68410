"""The names of all tasks, written down so that listing them imports no simulator."""

import difflib

_SUITE = {
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse two_poles three_poles",
    "cheetah": "run",
    "dog": "stand walk trot run fetch",
    "finger": "spin turn_easy turn_hard",
    "fish": "upright swim",
    "hopper": "stand hop",
    "humanoid": "stand walk run run_pure_state",
    "humanoid_CMU": "stand walk run",
    "lqr": "lqr_2_1 lqr_6_2",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "walk run escape fetch",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer6 swimmer15",
    "walker": "stand walk run",
}
# "ball_in_cup_catch" -> ("ball_in_cup", "catch"): domains hold underscores, so a name cannot simply be split.
SUITE_TASKS: dict[str, tuple[str, str]] = {
    f"{domain}_{task}": (domain, task) for domain, tasks in _SUITE.items() for task in tasks.split()
}
OWN_TASKS = ("counting", "reaching")
GYM_PREFIX = "gym:"  # before an id that is registered with gymnasium


def task_names() -> list[str]:
    """Return every task name that make_env takes, sorted."""
    return sorted([*SUITE_TASKS, *OWN_TASKS])


def checked_task(task: str) -> str:
    """Return `task`, or raise a ValueError that names the nearest known one; ids after "gym:" are checked when made."""
    if not isinstance(task, str) or not task:
        raise ValueError(f"task: got {task!r}, expected a name like 'cartpole_swingup'")
    if task.startswith(GYM_PREFIX):
        return task
    known = task_names()
    if task not in known:
        nearest = difflib.get_close_matches(task, known, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"task: got {task!r}, expected a known task or '{GYM_PREFIX}<id>'; the nearest one is {nearest!r}"
        )
    return task
