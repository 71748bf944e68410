"""Environments that a package registers when it is imported, and arguments that a task gives them."""

import sys
from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest

from envs import make_env
from envs.registered import REGISTRARS
from envs.tasks import task_arguments

MODULE = """
import gymnasium
from tests.envs.pixel_worlds import World

class Planet(World):
    def __init__(self, size=16, name="Mars", render_mode=None):
        super().__init__(render_mode=render_mode)
        self.given = {"size": size, "name": name}

gymnasium.register("Planets-v0", Planet, max_episode_steps=4)
"""


@pytest.fixture
def planets(tmp_path, monkeypatch):
    """A package that is known to register ids which begin with "Planets-"."""
    (tmp_path / "planets_package.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(REGISTRARS, "planets_package", ("planets", ("Planets-",)))
    yield tmp_path / "planets_package.py"
    sys.modules.pop("planets_package", None)
    gymnasium.registry.pop("Planets-v0", None)


def test_the_package_of_an_id_is_imported(planets):
    assert "Planets-v0" not in gymnasium.registry
    assert make_env("gym:Planets-v0").reset()[0].shape == (64, 64, 3)
    with pytest.raises(ValueError, match=r"the nearest one is 'gym:Planets-v0'$"):
        make_env("gym:Planets-v1")


@pytest.mark.parametrize(("content", "line"), [
    ("import no_such_engine", "which lacks a dependency: No module named 'no_such_engine'"),
    ("raise RuntimeError('no\\nlicence')", r"importing 'planets_package' raises RuntimeError \(no licence\)"),
    ("planet = = 1", r"importing 'planets_package' raises SyntaxError"),
])  # fmt: skip
def test_a_package_that_cannot_be_imported_is_one_line(planets, content, line):
    planets.write_text(content)
    for task in ("gym:Planets-v0", "gym:planets_package:Planets-v0"):
        with pytest.raises(ValueError, match=rf"^task: got '{task}', [^\n]*$") as caught:
            make_env(task)
        assert caught.match(line)


@pytest.mark.parametrize("task", ["gym:ALE/Pong-v5", "gym:MiniGrid-Empty-5x5-v0", "gym:highway-v0"])
def test_a_package_that_is_missing_is_named(task, monkeypatch):
    module, (package, _) = next((m, r) for m, r in REGISTRARS.items() if task.removeprefix("gym:").startswith(r[1]))
    if find_spec(module) is not None:
        make_env(task).reset()
        return
    with pytest.raises(ValueError, match=rf"^task: got '{task}', [^\n]*`pip install {package}`[^\n]*'gym:<module>:"):
        make_env(task)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(("query", "found"), [
    ("", {}),
    ("?a=1&b=1.5e-3&c=true&d=null", {"a": 1, "b": 0.0015, "c": True, "d": None}),
    ("?a=True&b=False&c=None", {"a": True, "b": False, "c": None}),
    ("?name=reach-v3&also=2020-01-01&no=no", {"name": "reach-v3", "also": "2020-01-01", "no": "no"}),
    ('?a=[1,2]&b={"c":[]}&e=', {"a": [1, 2], "b": {"c": []}, "e": ""}),
    ("?name=a%20b%26c%23d", {"name": "a b&c#d"}),
    ("?a=x=y#left", {"a": "x=y"}),
])  # fmt: skip
def test_values_in_a_task(query, found):
    assert task_arguments(f"gym:My-v0{query}") == found


@pytest.mark.parametrize(("task", "kwargs", "line"), [
    ("gym:My-v0?a", {}, "task: got 'a' in 'gym:My-v0?a', expected arguments as in"),
    ("gym:My-v0?a=1&", {}, "task: got '' in"),
    ("gym:My-v0?a b=1", {}, "task: got 'a b=1' in"),
    ("gym:My-v0?a=1&a=2", {}, "task: got 'a' twice"),
    ("gym:My-v0?a=1", {"a": 1}, "task: got 'a' twice"),
    ("gym:My-v0?a=NaN", {}, "task: got float 'nan' for 'a'"),
    ("gym:My-v0", {"a": float("inf")}, "env.kwargs: got float 'inf' for 'a'"),
    ("gym:My-v0", {"a": [object]}, "env.kwargs: got list"),
    ("gym:My-v0", {"a": {1: 2}}, "env.kwargs: got dict"),
    ("gym:My-v0", {1: 2}, "env.kwargs: got int '2' for '1'"),
    ("gym:My-v0", [1], "env.kwargs: got '[1]', expected a mapping"),
])  # fmt: skip
def test_arguments_that_are_no_plain_values(task, kwargs, line):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        make_env(task, kwargs=kwargs)
    assert str(caught.value).startswith(line)


def test_arguments_reach_the_constructor(planets):
    for task, kwargs in (("gym:Planets-v0?size=9&name=Io", {}), ("gym:Planets-v0?name=Io", {"size": 9})):
        assert make_env(task, kwargs=kwargs)._env.unwrapped.given == {"size": 9, "name": "Io"}
    for name in ("render_mode", "disable_env_checker", "id"):
        with pytest.raises(ValueError, match=rf"^env.kwargs: got '{name}' for 'gym:Planets-v0', expected none[^\n]*$"):
            make_env("gym:Planets-v0", kwargs={name: 1})
    with pytest.raises(ValueError, match=r"unexpected keyword argument 'sise'[^\n]*$"):
        make_env("gym:Planets-v0?sise=9")


def length(env):
    """Env frames of an episode, and how it ended."""
    env.reset()
    for count in range(1, 100):
        *_, terminated, truncated, _ = env.step(np.zeros(env.action_space.shape, np.float32))
        if terminated or truncated:
            return count, terminated, truncated
    raise AssertionError


def test_gymnasiums_own_time_limit_is_an_argument(planets):
    assert length(make_env("gym:Planets-v0")) == (4, False, True)
    assert length(make_env("gym:Planets-v0?max_episode_steps=2")) == (2, False, True)


@pytest.mark.parametrize(("task", "own"), [
    ("counting?length=7&is_terminating=true", (7, True, False)),
    ("cartpole_swingup?time_limit=0.08", (8, False, True)),
])  # fmt: skip
def test_a_tasks_own_length_is_an_argument(task, own):
    assert length(make_env(task, action_repeat=1, render="fast")) == own


@pytest.mark.parametrize(("task", "settings", "line"), [
    ("cartpole_swingup?tme=5", {}, "env.kwargs: got 'tme', expected arguments of dm_control.suite.cartpole.swingup: "),
    ("cartpole_swingup?random=5", {}, "env.kwargs: got 'random'"),
    ("cartpole_swingup?time_limit=abc", {}, "env.kwargs: got {'time_limit': 'abc'}, for which dm_control.suite.cart"),
    ("counting?lngth=3", {}, "env.kwargs: got 'lngth', expected arguments of counting: length, action_dim, "),
    ("reaching", {"kwargs": {"seed": 3}}, "env.kwargs: got 'seed', expected arguments of reaching"),
    ("reaching", {"camera": 0}, "env.camera: got 0 for 'reaching', expected none"),
    ("gym:pixel_worlds/Seen-v0", {"camera": "top"}, "env.camera: got 'top'"),
    ("cartpole_swingup", {"camera": "top"}, "camera_id: got 'top', expected 0 to 1 or a name (0 'fixed', 1 'lookat"),
    ("cartpole_swingup", {"camera": 2}, "camera_id: got 2, expected 0 to 1 or a name"),
    ("cartpole_swingup", {"camera": True}, "camera_id: got True, expected 0 to 1 or a name"),
    ("cartpole_swingp?time_limit=5", {}, "task: got 'cartpole_swingp?time_limit=5', expected a known task or"),
])  # fmt: skip
def test_arguments_that_a_task_does_not_know(task, settings, line):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        make_env(task, **settings)
    assert str(caught.value).startswith(line)


def test_cameras_by_number_and_name():
    frames = [
        make_env("cartpole_swingup", seed=2, render="fast", camera=c).reset()[0]
        for c in (None, 0, "fixed", 1, "lookatcart")
    ]
    assert (frames[0] == frames[1]).all()
    assert (frames[1] == frames[2]).all()
    assert (frames[3] == frames[4]).all()
    assert (frames[0] != frames[3]).any()
