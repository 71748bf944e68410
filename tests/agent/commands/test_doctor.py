"""The doctor: each finding says what is so, and the command ends with what to type, or with what is in the way."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.commands import doctor as command
from agent.commands.doctor import checks
from agent.commands.doctor.checks import Finding
from agent.commands.doctor.subprocesses import Allowance
from agent.config.presets import make_config
from run_agent import main
from tests.envs.sleepers import SLEEPERS, wait_for, wait_until_gone

ROOT = Path(__file__).resolve().parents[3]
DRAWN = 'print(\'{{"frames_per_second": 50.0, "action_dim": 1}}\')'


@pytest.fixture
def pids(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "pids"
    monkeypatch.setenv("PIDS", str(path))
    return path


# ---------------------------------------------------------------- findings


def test_versions_out_of_bounds_are_problems_with_the_command_that_mends_them():
    python, numpy, missing, rest = checks.check_versions(
        ">=2,<3", ["numpy>=99", "no-such-package-here>=1", "PyYAML>=5"]
    )
    assert (python.verdict, numpy.verdict, missing.verdict) == ("problem",) * 3
    assert numpy.advice == 'pip install "numpy>=99"'
    assert missing.text.startswith("missing")
    assert rest.text.startswith("1 of 3")


def test_the_bounds_are_those_of_pyproject_and_hold_here():
    bounds, lines = checks.requirements()
    assert bounds == ">=3.11,<3.13"
    assert "mujoco>=3.17,<4" in lines
    assert {finding.verdict for finding in checks.check_versions(bounds, lines)} == {"ok"}


def test_dm_control_and_mujoco_load_a_task(monkeypatch):
    assert checks.check_simulator("cartpole_swingup", 60).verdict == "ok"
    broken = "raise AttributeError(\"'MjModel' object has no attribute 'flex_vertedge'\")"
    monkeypatch.setattr(checks, "SIMULATOR_PROBE", broken)
    finding = checks.check_simulator("cartpole_swingup", 60)
    assert finding.verdict == "problem"
    assert "flex_vertedge" in finding.text
    assert "mujoco 3." in finding.advice


def verdicts(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.verdict for finding in findings}


def check_with(monkeypatch, script: str, variable: str | None = None) -> tuple[dict[str, Finding], str]:
    """Backends where drawing is `script`."""
    monkeypatch.setenv("MUJOCO_GL", variable or "")
    monkeypatch.setattr(checks, "BACKEND_PROBE", script)
    findings, backend = checks.check_backends("cartpole_swingup", 8, 2, Allowance(200))
    assert list(verdicts(findings)) == ["egl", "osmesa", "glfw", "drawing"]
    return {finding.name: finding for finding in findings}, backend


def only(backend: str) -> str:
    return f"import os; assert os.environ['MUJOCO_GL'] == '{backend}', 'no library'\n{DRAWN}"


def test_a_run_takes_the_first_backend_that_draws(monkeypatch):
    found, backend = check_with(monkeypatch, only("osmesa"))
    assert backend == "osmesa"
    assert verdicts(found.values()) == {"egl": "note", "osmesa": "ok", "glfw": "note", "drawing": "ok"}
    assert found["egl"].text == "AssertionError: no library"
    assert found["osmesa"].figures == {"together_frames_per_second": [50.0, 50.0]}


def test_a_run_takes_what_mujoco_gl_says(monkeypatch):
    found, backend = check_with(monkeypatch, only("osmesa"), "egl")
    assert (backend, found["drawing"].verdict) == ("", "problem")
    assert found["drawing"].advice == "unset MUJOCO_GL to use osmesa"
    assert check_with(monkeypatch, DRAWN, "glfw")[1] == "glfw"


def test_nothing_draws(monkeypatch):
    found, backend = check_with(monkeypatch, "raise OSError('no driver')")
    assert (backend, found["drawing"].verdict) == ("", "problem")
    assert "libegl1" in found["drawing"].advice


def test_a_backend_that_draws_only_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("LOCKS", str(tmp_path))
    script = """
import os, sys
lock = os.path.join(os.environ["LOCKS"], os.environ["MUJOCO_GL"])
try:
    os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
except FileExistsError:
    os.unlink(lock)
    raise RuntimeError("one is enough") from None
print("ready", flush=True)
sys.stdin.read()
""".replace("{", "{{").replace("}", "}}")
    found, backend = check_with(monkeypatch, script + DRAWN)
    assert backend == "egl"
    assert found["egl"].text == "one renderer works; 2 in parallel: RuntimeError: one is enough"
    assert (found["drawing"].verdict, found["drawing"].advice) == ("note", "keep --env.num_envs at 1")


@pytest.mark.slow
def test_the_frames_of_a_task_are_counted():
    standard, fast = checks.check_profiles("cartpole_swingup", 2, "", Allowance(200))
    assert (standard.name, fast.name) == ("standard frames", "fast frames")
    assert fast.figures["frames_per_second"] > 0
    assert fast.figures["action_dim"] == 1
    (own,) = checks.check_profiles("reaching", 1, "", Allowance(200))  # draws one way only
    assert own.verdict == "ok"


def test_hours_are_updates_and_drawn_frames(monkeypatch):
    monkeypatch.setattr("agent.training.machine.usable_cores", lambda: 3)
    config = make_config("cpu", "cartpole_swingup", {"env_frames": 82_000, "env.num_envs": 4})
    found = [
        Finding("standard frames", "ok", "", figures={"frames_per_second": 1.0}),
        Finding("fast frames", "ok", "", figures={"frames_per_second": 100.0}),
        Finding("update", "ok", "", figures={"update_seconds": 0.36, "act_seconds": 0.01}),
    ]
    # Repeat 8, train ratio 128, batches of 8 x 16: an update a decision after 2,000 env_frames, 10,000 of them.
    # 10,250 decisions of 4 environments at a time, each time 0.01 s and twice 1/100 s, as 3 cores draw 4 in two turns.
    assert command.expected_hours(config, found) == pytest.approx((10_000 * 0.36 + 10_250 / 4 * 0.03) / 3600)
    assert command.expected_hours(config, found[:2]) is None
    final = make_config(
        "cpu", "cartpole_swingup", {"env_frames": 82_000, "env.num_envs": 4, "train.final_updates": 500}
    )
    more = command.expected_hours(final, found) - command.expected_hours(config, found)
    assert more == pytest.approx(500 * 0.36 / 3600)


def test_what_writes_videos_is_tried(monkeypatch, tmp_path):
    finding = checks.check_encoder(100)
    assert (finding.verdict, finding.text) == ("ok", "libx264 writes mp4 files")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "missing"))
    finding = checks.check_encoder(100)
    assert finding.verdict == "note"  # no run needs a video
    assert finding.text.startswith("Pillow writes gif files, because [Errno 2] No such file or directory: ")
    assert "pip install" in finding.advice
    monkeypatch.setattr(checks, "ENCODER_PROBE", "raise SystemError('broken')")
    assert checks.check_encoder(100).verdict == "note"


# ---------------------------------------------------------------- the command


@pytest.fixture
def quick(monkeypatch):
    """Probes that answer at once, the one for learning aside."""
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(checks, "SIMULATOR_PROBE", "pass")
    monkeypatch.setattr(checks, "BACKEND_PROBE", DRAWN)
    monkeypatch.setattr(checks, "DRAWING_PROBE", DRAWN)
    torch_found = {"torch": {"name": "torch", "verdict": "ok", "text": "2.x", "figures": {"cuda": False}}}
    monkeypatch.setattr(command, "TORCH_PROBE", f"print('{json.dumps(torch_found)}')")


def test_doctor_ends_with_the_command_and_its_hours(capsys, quick, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # probes find this program from everywhere
    path = tmp_path / "deep" / "out.json"
    assert main(["doctor", "--preset", "debug", "--seconds", "200", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert "python run_agent.py train --task counting --preset debug" in out.splitlines()[-2]
    assert "hours for 400 env_frames" in out
    report = json.loads(path.read_text())
    assert report["can_start"]
    assert report["hours"] > 0
    found = {finding["name"]: finding for finding in report["findings"]}
    assert found.keys() >= {
        "python",
        "packages",
        "torch",
        "simulator",
        "egl",
        "drawing",
        "memory",
        "disk",
        "update",
        "video",
    }
    assert found["memory"]["figures"]["memory_bytes"] == 5000 * (64 * 64 * 3 + 4 + 3 + 4)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("asked", "ending"), [(2, "--preset debug --threads 1"), (None, "--preset debug")])
def test_the_command_has_the_best_number_of_threads_where_one_was_asked_for(capsys, quick, monkeypatch, asked, ending):
    figures = {"threads": 1, "asked_threads": asked}
    found = {"threads": {"name": "threads", "verdict": "ok", "text": "", "figures": figures}}
    monkeypatch.setattr(
        command, "LEARNING_PROBE", f"print({json.dumps(json.dumps(found))})".replace("{", "{{").replace("}", "}}")
    )
    assert main(["doctor", "--preset", "debug", *([] if asked is None else [f"--threads={asked}"])]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"train --task counting {ending}")


@pytest.mark.slow
def test_doctor_times_the_threads_that_are_asked_for(capsys, quick):
    assert main(["doctor", "--preset", "debug", "--seconds", "200", "--threads", "97"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " threads " in line and "is best" in line]
    assert "97" in line  # timed, or slower than fewer
    assert "1 thread " in line


@pytest.mark.parametrize(("task", "status"), [("walker_walk", 1), ("counting", 0)])
def test_without_dm_control_only_tasks_of_our_own_can_start(capsys, quick, monkeypatch, task, status):
    for name in ("SIMULATOR_PROBE", "BACKEND_PROBE", "DRAWING_PROBE"):
        monkeypatch.setattr(checks, name, "import no_dm_control")
    if task == "counting":
        monkeypatch.setattr(checks, "check_profiles", lambda *_: [])
    monkeypatch.setattr(command, "LEARNING_PROBE", "pass")
    assert main(["doctor", "--task", task]) == status
    out = capsys.readouterr().out
    assert "No module named 'no_dm_control'" in out
    assert ("problem" in out) == (status == 1)
    assert ("train --task" in out) == (status == 0)


def test_doctor_never_hangs(capsys, monkeypatch, pids):
    for name in ("SIMULATOR_PROBE", "BACKEND_PROBE", "DRAWING_PROBE"):
        monkeypatch.setattr(checks, name, SLEEPERS)
    for name in ("TORCH_PROBE", "LEARNING_PROBE"):
        monkeypatch.setattr(command, name, SLEEPERS)
    assert main(["doctor", "--task", "walker_walk", "--seconds", "4"]) == 1
    out = capsys.readouterr().out
    assert "no answer in 1 s, killed" in out
    assert "not measured, no time left" in out
    assert wait_until_gone(pids, len(pids.read_text().split()))


def test_sigterm_leaves_no_probe(pids):
    script = f"import sys, run_agent, agent.commands.doctor as d; d.TORCH_PROBE = {SLEEPERS!r}; "
    process = subprocess.Popen([sys.executable, "-c", script + "sys.exit(run_agent.main(['doctor']))"], cwd=ROOT)
    wait_for(pids)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert wait_until_gone(pids, 2)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--seconds", "0"], "seconds: got 0, expected a positive number"),
        (["--seconds", "soon"], "seconds"),
        (["--workers", "0"], "workers: got 0"),
        (["--threads", "0"], "threads: got 0, expected at least 1"),
        (["--task", "walker_wlak"], "'walker_walk'"),
        (["--preset", "cpuu"], "'cpu'"),
        (["--json", os.sep], "a folder"),
        (["--secnds", "3"], "'seconds'"),
    ],
)
def test_bad_input_is_one_line(capsys, argv, expected):
    assert main(["doctor", *argv]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
