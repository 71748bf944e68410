"""The examples run as they are documented, each with a budget of seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
BUDGETS = {  # file -> arguments that make it short, and what it has to say at its end
    "own_environment.py": (["105"], "of 10"),
    "stable_baselines.py": (["--timesteps", "200"], "over 5 episodes, after 100 timesteps"),
}


@pytest.mark.parametrize("name", BUDGETS)
def test_example(name, tmp_path):
    arguments, expected = BUDGETS[name]
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert expected in result.stdout.splitlines()[-1]


def test_the_example_of_an_own_environment_is_short():
    text = (EXAMPLES / "own_environment.py").read_text().split('"""', 2)[2]  # without the module's docstring
    code = [line for line in text.splitlines() if line.strip() and not line.strip().startswith(('"""', "#"))]
    assert len(code) <= 30
