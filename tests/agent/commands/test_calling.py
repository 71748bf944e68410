"""How the program is called and what it says to type next: its name, its folders, and what may stand in its way."""

import ast
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.commands.parser import default_logdir, hint
from agent.config.files import save_config
from agent.config.presets import make_config
from run_agent import main

ROOT = Path(__file__).resolve().parents[3]
SHORT = ["train", "--preset", "debug", "--env.num_envs", "1", "--env_frames", "60", "--train.video_frames", "0"]
SHORT += ["--replay.prefill_frames", "30"]
SOURCES = [
    ROOT / "run_agent.py",
    *(
        path
        for name in ("agent", "envs", "replay", "world_model", "benchmarks")
        for path in (ROOT / name).rglob("*.py")
    ),
]


def call(*command: str, cwd: Path = ROOT, **variables: str) -> "subprocess.CompletedProcess[str]":
    settings = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, check=False)


# ---------------------------------------------------------------- names


@pytest.fixture
def aime(tmp_path) -> Path:
    """The console script as pip makes it."""
    path = tmp_path / "bin" / "aime"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nimport sys\nfrom run_agent import main\nsys.exit(main())\n")
    path.chmod(0o755)
    return path


def test_the_name_that_was_typed_is_the_name_that_is_said(aime):
    found = {"PATH": f"{aime.parent}{os.pathsep}{os.environ['PATH']}"}
    assert "\n  aime train --task cartpole_swingup --logdir runs/demo\n" in call("aime", "--help", **found).stdout
    assert call("aime", "trian", **found).stderr.startswith("aime: error: ")
    assert "usage: aime evaluate" in call("aime", "evaluate", "--help", **found).stdout
    assert f"\n  {aime} train --task" in call(str(aime), "--help").stdout  # not on the PATH: as it was typed
    assert " run_agent.py train --task" in call(sys.executable, "run_agent.py", "--help").stdout
    assert (
        f" {ROOT}/run_agent.py train" in call(sys.executable, f"{ROOT}/run_agent.py", "--help", cwd=aime.parent).stdout
    )


def test_the_python_that_is_said_is_the_one_that_runs(monkeypatch, tmp_path):
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "python3"):
        (folder / name).symlink_to(sys.executable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    assert hint("plot") == ".venv/bin/python run_agent.py plot"  # as `make train` runs it
    monkeypatch.setenv("PATH", str(folder))
    assert hint("plot") == "python run_agent.py plot"
    monkeypatch.setattr(sys, "executable", str(folder / "python3"))
    assert hint("plot") == "python3 run_agent.py plot"


def test_hints_can_be_copied_where_the_folder_has_a_space(capfd, tmp_path):
    logdir = tmp_path / "my runs" / "it's one"
    budget = ["--env_frames", "1000000", "--train.eval_every", "1000000", "--max_minutes", "0.02"]
    assert main([*SHORT, *budget, "--logdir", str(logdir)]) == 0
    hints = [shlex.split(line) for line in capfd.readouterr().out.splitlines() if line.startswith("  ")]
    tails = [words[words.index("run_agent.py") + 1 :] for words in hints]
    assert tails == [
        ["train", "--logdir", str(logdir), "--resume"],
        ["evaluate", "--logdir", str(logdir)],
        ["record", "--logdir", str(logdir)],
    ]


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "aime 0.1.0\n"


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_a_bare_make_prints_what_there_is(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    said = call("make", cwd=tmp_path)
    assert said.returncode == 0
    assert "make train [TASK=" in said.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]


# ---------------------------------------------------------------- folders


def test_every_seed_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in ("0", "1"):
        assert main([*SHORT, "--quiet", "--seed", seed]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["counting-seed0", "counting-seed1"]


def test_a_folder_of_the_earlier_name_is_found_where_it_holds_that_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = make_config("debug", "reaching")
    assert default_logdir(config) == Path("runs/reaching-seed0")
    (tmp_path / "runs" / "reaching").mkdir(parents=True)
    save_config(config, tmp_path / "runs" / "reaching" / "config.yaml")
    assert default_logdir(config) == Path("runs/reaching")
    assert default_logdir(make_config("debug", "reaching", {"seed": 1})) == Path("runs/reaching-seed1")
    assert default_logdir(make_config("debug", "reaching", {"algo": "sac"})) == Path("runs/reaching-sac-seed0")
    (tmp_path / "runs" / "reaching-seed0").mkdir()
    assert default_logdir(config) == Path("runs/reaching-seed0")


@pytest.mark.parametrize("name", ["agent", "envs", "replay", "world_model"])
def test_a_folder_of_the_users_that_hides_ours_is_one_line(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    said = call(sys.executable, "-m", "run_agent", "train", cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr.startswith(f"run_agent.py: error: {name}: got '{tmp_path / name}', which hides '{ROOT / name}'")
    assert said.stderr.count("\n") == 1
    assert call(sys.executable, str(ROOT / "run_agent.py"), "--version", cwd=tmp_path).stdout == "aime 0.1.0\n"


# pip's editable install finds packages behind the path, where a folder without __init__.py hides them too.
EDITABLE = """
import sys
from importlib.util import spec_from_file_location
from pathlib import Path

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        place = Path({root!r}, *name.split("."))
        found = [file for file in (place / "__init__.py", place.with_suffix(".py")) if file.exists()]
        return spec_from_file_location(name, found[0]) if found else None

sys.path[:] = [{folder!r}, *(place for place in sys.path if place not in ("", {root!r}))]
sys.meta_path[:] = [*(finder for finder in sys.meta_path if "Editable" not in repr(finder)), Finder]
from run_agent import main
main(["--version"])
"""


@pytest.mark.parametrize("name", ["agent", "envs"])
def test_a_folder_without_init_hides_an_editable_install(tmp_path, name):
    (tmp_path / name).mkdir()
    said = call(sys.executable, "-c", EDITABLE.format(root=str(ROOT), folder=str(tmp_path)), cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr.startswith(f"run_agent.py: error: {name}: got '{tmp_path / name}', which hides '{ROOT / name}'")


def test_from_python_a_hidden_package_is_an_import_error(tmp_path):
    (tmp_path / "envs.py").touch()
    said = call(sys.executable, "-c", "from agent import Agent", cwd=tmp_path)
    line = said.stderr.splitlines()[-1]
    assert line.startswith(f"ImportError: envs: got '{tmp_path / 'envs.py'}', which hides '{ROOT / 'envs'}'")


# ---------------------------------------------------------------- text files


def test_doctor_reads_its_bounds_in_any_locale():
    script = "from agent.commands.doctor.checks import requirements; print(requirements()[0])"
    said = call(sys.executable, "-c", script, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (said.stdout, said.stderr) == (">=3.11,<3.13\n", "")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_file_is_read_in_the_locales_encoding(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = getattr(getattr(node, "func", None), "attr", getattr(getattr(node, "func", None), "id", ""))
        if name not in ("open", "read_text", "write_text") or ast.unparse(node.func) == "os.open":
            continue
        is_binary = any(isinstance(value, ast.Constant) and "b" in str(value.value) for value in node.args)
        named = {keyword.arg for keyword in node.keywords}
        assert is_binary or "encoding" in named, f"line {node.lineno}: {ast.unparse(node)}"
