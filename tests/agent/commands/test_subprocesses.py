"""Probes: their processes never outlive their time, whatever they or their parent do."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.commands.doctor.subprocesses import NO_TIME, Allowance, Answer, run_probe, run_probes
from tests.envs.sleepers import SLEEPERS, wait_for, wait_until_gone

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def pids(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "pids"
    monkeypatch.setenv("PIDS", str(path))
    return path


def test_a_probe_that_sleeps_for_ever_is_killed_with_its_child(pids):
    answers = run_probes(SLEEPERS, 2, 2)
    assert [answer.failure for answer in answers] == ["no answer in 2 s, killed"] * 2
    assert wait_until_gone(pids, 4)


def test_a_child_that_a_probe_leaves_is_killed_at_once(pids):
    assert run_probe(SLEEPERS.replace("time.sleep(1000)\n", "print('{}')\n"), 100).failure is None
    assert wait_until_gone(pids, 2)


def test_a_probe_ends_even_where_its_parent_was_killed(pids):
    parent = subprocess.Popen(
        [sys.executable, "-c", "from agent.commands.doctor.subprocesses import *; run_probe('import time, os\\n"
         "print(os.getpid(), file=open(os.environ[\"PIDS\"], \"w\"), flush=True)\\ntime.sleep(1000)', 2)"],
        cwd=ROOT,
    )  # fmt: skip
    wait_for(pids)
    parent.kill()
    parent.wait()
    assert wait_until_gone(pids, 1)


def test_copies_go_on_only_when_all_are_ready():
    script = """
import json, sys, time
print(json.dumps({"ready_at": time.monotonic()}))
print("ready", flush=True)
sys.stdin.read()
print(json.dumps({"gone_on_at": time.monotonic()}))
"""
    figures = [answer.figures for answer in run_probes(script, 60, 3)]
    assert max(f["ready_at"] for f in figures) <= min(f["gone_on_at"] for f in figures)


def test_a_copy_that_dies_does_not_hold_the_others_up(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCK", str(tmp_path / "lock"))
    script = """
import os, sys
os.open(os.environ["LOCK"], os.O_CREAT | os.O_EXCL)
print("ready", flush=True)
sys.stdin.read()
"""
    failures = [answer.failure for answer in run_probes(script, 60, 3)]
    assert failures.count(None) == 1
    assert all("FileExistsError" in failure for failure in failures if failure is not None)


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ("print('{\"a\": 1}'); raise ValueError('so it is')", "ValueError: so it is"),
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("import sys; sys.exit(3)", "exit status 3"),
    ],
)
def test_a_failure_is_one_line(script, failure):
    assert run_probe(script, 60).failure == failure


def test_what_is_printed_is_merged_and_kept_at_a_failure():
    script = 'print(\'{"a": 1, "b": 1}\\nno JSON\\n[3]\\n{"b": 2}\'); raise ValueError'
    assert run_probe(script, 60).figures == {"a": 1, "b": 2}


def test_nothing_is_started_without_time(pids):
    assert run_probe(SLEEPERS, 0.5) == Answer({}, NO_TIME)
    assert not pids.exists()


def test_an_allowance_is_shared_out():
    now = [100.0]
    allowance = Allowance(30, lambda: now[0])
    assert (allowance.left(), allowance.share()) == (30, 10)
    now[0] = 125.0
    assert (allowance.left(), allowance.share()) == (5, 5)
    now[0] = 140.0
    assert (allowance.left(), allowance.share()) == (0, 0)
