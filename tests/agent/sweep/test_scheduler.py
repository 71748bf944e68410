"""The scheduler and the rooms of this machine, with little scripts instead of training."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.sweep.child import Child
from agent.sweep.local import LocalPool, Slot, slots
from agent.sweep.scheduler import Scheduler, State
from tests.agent.sweep.trivial_runs import COUNT, Counting, wait
from tests.envs.sleepers import is_alive

ROOT = Path(__file__).resolve().parents[3]
CORES = tuple(sorted(os.sched_getaffinity(0)))
FAIL_ONCE = "import os, sys\nif not os.path.exists('{0}'): open('{0}', 'w'); sys.exit('no luck')\n" + COUNT


def carry_out(works, jobs=2, retries=2) -> tuple[Scheduler, list[str]]:
    """The scheduler after all runs have ended, and what it told."""
    told = []
    scheduler = Scheduler(works, LocalPool([Slot(CORES, None)] * jobs), retries, told.append)
    scheduler.run(0.01, lambda: None)
    return scheduler, told


def states(scheduler: Scheduler) -> list[str]:
    return [entry.state.value for entry in scheduler.entries]


def test_runs_are_carried_out_and_no_finished_one_is_started_again(tmp_path):
    works = [Counting(name, tmp_path) for name in "abc"]
    scheduler, told = carry_out(works)
    assert states(scheduler) == ["finished"] * 3
    assert [f"{name}: started at 0 env_frames" in told for name in "abc"] == [True] * 3
    again, told = carry_out([*works, Counting("d", tmp_path)])
    assert states(again) == ["finished"] * 4
    assert told == ["d: started at 0 env_frames", "d: finished at 3 env_frames"]
    assert all(len(work.lines()) == 3 for work in works)


def test_no_more_run_at_once_than_there_is_room(tmp_path):
    works = [Counting(name, tmp_path, pause=0.05) for name in "abcde"]
    scheduler = Scheduler(works, LocalPool([Slot(CORES, None)] * 2), 0, lambda _: None)
    counts = []
    scheduler.run(0.01, lambda: counts.append(scheduler.count(State.RUNNING)))
    assert max(counts) == 2
    assert states(scheduler) == ["finished"] * 5


def test_a_run_that_fails_is_told_and_resumed(tmp_path):
    scheduler, told = carry_out([Counting("a", tmp_path, FAIL_ONCE.format(tmp_path / "tried"))])
    assert states(scheduler) == ["finished"]
    assert "a: ended early at 0 env_frames, to be resumed: no luck" in told


def test_retries_without_progress_are_bounded(tmp_path):
    script = "import sys; print('tried', flush=True); sys.exit('no luck')"
    scheduler, told = carry_out([Counting("a", tmp_path, script), Counting("b", tmp_path)], retries=2)
    assert states(scheduler) == ["failed", "finished"]
    assert told[-1] == "a: failed at 0 env_frames: no luck"
    assert (tmp_path / "logs" / "a.out").read_text().split() == ["tried"] * 3


def test_a_run_that_is_preempted_again_and_again_comes_to_its_end(tmp_path):
    """Each attempt ends after one more step: with progress, ends are not counted."""
    scheduler, _ = carry_out([Counting("a", tmp_path, COUNT.replace("time.sleep(pause)", "sys.exit()"), goal=6)], 1, 1)
    assert states(scheduler) == ["finished"]
    assert len({line.split()[1] for line in scheduler.entries[0].work.lines()}) == 6


def test_a_signal_is_named(tmp_path):
    scheduler, _ = carry_out([Counting("a", tmp_path, "import os; os.kill(os.getpid(), 9)")], retries=0)
    assert scheduler.entries[0].why == "SIGKILL"


def test_a_process_that_cannot_be_started_is_a_failed_run(tmp_path):
    (tmp_path / "logs").write_text("in the way")
    scheduler, told = carry_out([Counting("a", tmp_path)], retries=1)
    assert states(scheduler) == ["failed"]
    assert len(told) == 2
    assert "FileExistsError" in told[0]


def test_a_folder_in_use_is_waited_for(tmp_path):
    class Used(Counting):
        asked = 0

        def holder(self) -> str:
            self.asked += 1
            return "process 7 is using it" if self.asked < 4 else ""

    scheduler, told = carry_out([Used("a", tmp_path), Counting("b", tmp_path)], jobs=1)
    assert states(scheduler) == ["finished"] * 2
    assert told.count("a: waiting (process 7 is using it)") == 1
    assert told.index("b: started at 0 env_frames") < told.index("a: started at 0 env_frames")


def test_stop_asks_the_runs_and_the_next_call_goes_on(tmp_path):
    works = [Counting(name, tmp_path, goal=50, pause=0.05) for name in "abc"]
    scheduler = Scheduler(works, LocalPool([Slot(CORES, None)] * 2), 2, lambda _: None)
    scheduler.run(0.01, lambda: scheduler.stop("SIGINT") if works[0].lines() and works[1].lines() else None)
    assert states(scheduler) == ["stopped"] * 3
    assert works[2].lines() == []
    before = len(works[0].lines())
    assert 0 < before < 50
    for work in works:
        work.goal = before + 1
    assert states(carry_out(works)[0]) == ["finished"] * 3
    assert [int(line.split()[0]) for line in works[0].lines()] == [*range(1, before + 2)]


KILLED = """
import sys
from pathlib import Path
from agent.sweep.local import LocalPool, Slot
from agent.sweep.scheduler import Scheduler
from tests.agent.sweep.trivial_runs import Counting
works = [Counting(name, Path(sys.argv[1]), goal=1000, pause=0.05) for name in "ab"]
Scheduler(works, LocalPool([Slot((), None)] * 2), 2, lambda _: None).run(0.01, lambda: None)
"""


def test_runs_end_with_a_killed_sweep(tmp_path):
    works = [Counting(name, tmp_path) for name in "ab"]
    sweep = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    wait(lambda: all(work.lines() for work in works))
    sweep.send_signal(signal.SIGKILL)
    sweep.wait()
    for work in works:
        pid = int(work.lines()[0].split()[1])
        wait(lambda pid=pid: not is_alive(pid))


def test_a_child_keeps_to_its_room(tmp_path):
    work = Counting("a", tmp_path)
    pool = LocalPool([Slot(CORES[:1], "7")])
    assert pool.start(work).wait() == ""
    assert (tmp_path / "logs" / "a.out").read_text() == f"cores [{CORES[0]}] gpu 7\n"


def test_errors_of_earlier_attempts_are_not_told_again(tmp_path):
    assert Child(["-c", "import sys; sys.exit('first')"], tmp_path / "a").wait() == "first"
    assert Child(["-c", "import sys; sys.exit(3)"], tmp_path / "a").wait() == "exit status 3"


@pytest.mark.parametrize(
    ("cores", "gpus", "jobs", "threads", "expected"),
    [
        (4, (), None, None, [((0,), None), ((1,), None), ((2,), None), ((3,), None)]),
        (4, (), None, 2, [((0, 1), None), ((2, 3), None)]),
        (4, (), 2, None, [((0, 1), None), ((2, 3), None)]),
        (5, (), 2, None, [((0, 1), None), ((2, 3), None)]),
        (2, (), 3, 1, [((0,), None), ((1,), None), ((0,), None)]),
        (3, (), 2, 2, [((0, 1), None), ((0, 2), None)]),
        (1, (), None, 4, [((0,), None)]),
        (8, ("2", "5"), None, None, [((0, 1, 2, 3), "2"), ((4, 5, 6, 7), "5")]),
        (4, ("0",), 2, None, [((0, 1), "0"), ((2, 3), "0")]),
    ],
)
def test_cores_and_gpus_are_shared_out(cores, gpus, jobs, threads, expected):
    assert slots(range(cores), gpus, jobs, threads) == expected
