"""Environments that do not keep to Gymnasium's API, each in one way: importing this module registers them."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from tests.envs.pixel_worlds import VECTOR, World, image_space


def register(name, **methods):
    """Register "broken_worlds/<name>-v0": a World of pictures with other methods."""
    gymnasium.register(f"broken_worlds/{name}-v0", type(name, (World,), methods))


def paying(reward):
    """A step whose reward is `reward`."""

    def step(self, action):
        observation, _, *rest = World.step(self, action)
        return observation, reward, *rest

    return step


def ending(terminated, truncated):
    """A step that ends so."""

    def step(self, action):
        return *World.step(self, action)[:2], terminated, truncated, {}

    return step


def raising(error):
    """A method that raises."""

    def method(self, *arguments, **settings):
        raise error

    return method


def drawing(frame, observation_space=VECTOR):
    """What draws `frame`, and shows nothing else."""

    def __init__(self, render_mode=None):
        World.__init__(self, observation_space, render_mode=render_mode)

    return {"__init__": __init__, "render": lambda self: frame}


def showing(make):
    """What shows make(count) where the space has a picture [16, 16, 3]."""
    return {"observe": lambda self, space: make(self.count)}


class OneElement:
    """A tensor of one element, as torch and jax have them."""

    def item(self):
        return np.float32(1.5)


for name, reward in {
    "Array": np.array([1.5]), "Array0": np.array(1.5), "Array2": np.array([[1.5]]), "Scalar": np.float32(1.5),
    "Tensor": OneElement(), "Whole": 3, "Flag": True,
    "List": [1.5], "Tuple": (1.5,), "None": None, "Text": "1.5", "Complex": 1j, "Two": np.array([1.5, 2.0]),
    "Empty": np.array([]), "ArrayOfText": np.array(["1.5"]), "Mapping": {"reward": 1.5},
}.items():  # fmt: skip
    register(f"Reward{name}", step=paying(reward))
for name, ends in {"Array": (np.array([True]), False), "Numpy": (np.bool_(True), False), "Number": (1, 0)}.items():
    register(f"End{name}", step=ending(*ends))
for name, ends in {"None": (None, False), "Info": (False, {}), "Text": ("False", False), "Two": (2, False)}.items():
    register(f"End{name}", step=ending(*ends))
register("ResetAlone", reset=lambda self, *, seed=None, options=None: World.reset(self, seed=seed)[0])
register("ResetThree", reset=lambda self, *, seed=None, options=None: (*World.reset(self, seed=seed), 1))
register("ResetText", reset=lambda self, *, seed=None, options=None: (World.reset(self, seed=seed)[0], "info"))
register("ResetNoSeed", reset=lambda self: World.reset(self))
register("ResetNoOptions", reset=lambda self, seed=None: World.reset(self, seed=seed))
register("ResetNoneInfo", reset=lambda self, *, seed=None, options=None: (World.reset(self, seed=seed)[0], None))
register("ResetRaises", reset=raising(OSError("no\nmap")))
register("StepFour", step=lambda self, action: (*World.step(self, action)[:3], {}))
register("StepNone", step=lambda self, action: None)
register("StepRaises", step=raising(KeyError("gear")))
register("Floats", **showing(lambda count: np.zeros((16, 16, 3), np.float32)))
register("Growing", **showing(lambda count: np.zeros((16 + count, 16, 3), np.uint8)))
register("Channels", **showing(lambda count: np.zeros((16, 16, 4), np.uint8)))
ALPHA = np.arange(1200, dtype=np.uint16).reshape(30, 40, 1) % 255
register("DrawsRGBA", **drawing(np.dstack([np.full((30, 40, 3), 200), ALPHA]).astype(np.uint8)))
register("DrawsGrey", **drawing(np.full((30, 40), 200, np.uint8)))
register("DrawsFloats", **drawing(np.ones((30, 40, 3))))
register("DrawsNone", **drawing(None))
register("DrawsFive", **drawing(np.zeros((30, 40, 5), np.uint8)))
register("SpaceRGBA", **drawing(None, image_space(16, 16, 4)) | {"metadata": {"render_modes": []}})
register("SpaceFloats", **drawing(None, Box(0, 1, (16, 16, 3), np.float32)) | {"metadata": {"render_modes": []}})
register("DrawingRaises", **drawing(None) | {"render": raising(RuntimeError("no paint"))})
register("SeenDrawingRaises", render=raising(RuntimeError("no paint")))
for error in (
    TypeError("no such\nplanet"),
    RuntimeError("no licence"),
    KeyError("size"),
    OSError("port"),
    AssertionError(),
):
    register(f"Making{type(error).__name__}", __init__=raising(error))
register("MakingNoEnv", __new__=lambda kind, render_mode=None: object())
register("NeedsPlanet", __init__=lambda self, planet, render_mode=None: World.__init__(self, render_mode=render_mode))
register("NoSpace", __init__=lambda self, render_mode=None: None)
register("ClosingRaises", close=raising(RuntimeError("stuck")))
