"""Distracting pictures of the suite's tasks: a moving background behind the bodies, and shifted colours.

After the Distracting Control Suite (Stone et al. 2021, arXiv 2101.02722). Its backgrounds are videos, which have to be
downloaded; these are made of waves.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.rendering import SceneCamera

COLOR_SHIFT = 0.2  # of [0, 1], per colour channel of a material: the medium level of the Distracting Control Suite

_NUM_WAVES = 12
_FREQUENCIES = 0.5, 3.0  # waves per frame height, log-uniform
_MOST_HZ = 1.0  # of a wave in place, in seconds of the simulated world
_CONTRAST = 1.5  # standard deviation of the sum of waves, radians
_OWN = 0.7  # how much channels differ, beside what they share
_SAMPLES = 2  # per pixel and axis where the profile smooths edges
_HIDDEN_GROUP = 5  # geoms of the groups 3 to 5 are not drawn unless a viewer asks for them
_PLANE, _FIXED = 0, 0  # mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtCamLight.mjCAMLIGHT_FIXED


class Background:
    """A smooth coloured pattern that moves, a function of its random generator, place and time alone.

    A colour channel c at (x, y), in frame heights, and t, in seconds, is 255 (1 + sin f_c) / 2 with
    f_c = b_c + sum_k a_ck cos(2 pi (u_k x + v_k y + w_k t) + p_k), so it has the whole range of values.
    """

    def __init__(self, random: np.random.Generator) -> None:
        angle = random.uniform(0, 2 * np.pi, _NUM_WAVES)
        low, high = _FREQUENCIES
        frequency = low * (high / low) ** random.uniform(size=_NUM_WAVES)
        self._u, self._v = frequency * np.cos(angle), frequency * np.sin(angle)  # [K], waves per frame height
        self._w = random.uniform(-_MOST_HZ, _MOST_HZ, _NUM_WAVES)  # [K]
        self._phase = random.uniform(0, 2 * np.pi, _NUM_WAVES)  # [K]
        # Channels share a part of their waves, as those of natural pictures do.
        amplitude = (random.normal(size=_NUM_WAVES) + _OWN * random.normal(size=(3, _NUM_WAVES))) / np.sqrt(frequency)
        # A wave of amplitude a has the variance a^2 / 2.
        self._amplitude = amplitude * _CONTRAST / np.sqrt((amplitude**2).sum(1, keepdims=True) / 2)  # [3, K]
        self._offset = (random.uniform(0, 2 * np.pi) + random.uniform(-_OWN, _OWN, 3)).astype(np.float32)  # [3]

    def draw(self, height: int, width: int, seconds: float) -> NDArray[np.float32]:
        """Return the pattern at a time as float32 [height, width, 3] in [0, 255]."""
        x = (np.arange(width) + 0.5 - width / 2) / height  # [W]
        y = (np.arange(height) + 0.5 - height / 2) / height  # [H]
        across = 2 * np.pi * self._u[:, None] * x  # [K, W]
        down = 2 * np.pi * (self._v[:, None] * y + self._w[:, None] * seconds) + self._phase[:, None]  # [K, H]
        # cos(a + b) = cos a cos b - sin a sin b: the sum over waves is a product of two small matrices.
        left = np.concatenate([np.cos(down), -np.sin(down)]).T.astype(np.float32)  # [H, 2K]
        right = np.concatenate([np.cos(across), np.sin(across)])  # [2K, W]
        weighted = np.tile(self._amplitude.T, (2, 1))[:, None] * right[..., None]  # [2K, W, 3]
        field = left @ weighted.reshape(len(right), -1).astype(np.float32)  # [H, 3W]
        return 127.5 * (1.0 + np.sin(field.reshape(height, width, 3) + self._offset))


class DistractingCamera(SceneCamera):
    """A SceneCamera that shows a `Background` instead of sky, floor and walls, and materials in shifted colours.

    A camera that follows a body keeps the floor, which alone shows how fast the body moves; so does the Distracting
    Control Suite for walker and cheetah. All else is drawn as before. Background and colours are drawn anew for each
    episode. Background pixels are those whose depth is that of nothing, so a frame is rendered once. The profile
    "standard" smooths edges by _SAMPLES^2 samples per pixel. Arguments and errors are SceneCamera's.
    """

    def __init__(self, physics: Any, camera_id: int | str, profile: str) -> None:
        physics.model.vis.quality.offsamples = 0  # an edge would mix colours with black, and have one depth
        super().__init__(physics, camera_id, profile)
        self._samples = _SAMPLES if profile == "standard" else 1
        self._flags |= {"skybox": False}
        model = physics.model
        if model.cam_mode[self._camera_id] == _FIXED:
            model.geom_group[model.geom_type == _PLANE] = _HIDDEN_GROUP
        self._colors = model.mat_rgba[:, :3].copy()  # [materials, 3]

    def begin_episode(self, seed: int) -> None:
        """Draw the background and the colours of an episode; they depend on the seed alone."""
        random = np.random.default_rng((seed, 1))  # the task itself draws from `seed`
        self._background = Background(random)
        shifted = self._colors + random.uniform(-COLOR_SHIFT, COLOR_SHIFT, self._colors.shape)
        self._physics.model.mat_rgba[:, :3] = np.clip(shifted, 0.0, 1.0)

    def render(self, height: int, width: int) -> NDArray[np.uint8]:
        """Return the scene before its background as a new upright frame [height, width, 3]."""
        image, is_drawn = self._render_bodies(height * self._samples, width * self._samples)
        blocks = height, self._samples, width, self._samples
        bodies = image.reshape(*blocks, 3).mean((1, 3), dtype=np.float32)  # [H, W, 3], black where there is none
        cover = is_drawn.reshape(*blocks).mean((1, 3), dtype=np.float32)[..., None]  # [H, W, 1]
        background = self._background.draw(height, width, self._physics.data.time)
        return np.rint(bodies + (1 - cover) * background).astype(np.uint8)

    def _render_bodies(self, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return the bodies before black, [height, width, 3], and where something is drawn, [height, width]."""
        import mujoco

        camera, contexts = self._camera(height, width), self._physics.contexts
        image, depth = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.float32)
        area = mujoco.MjrRect(0, 0, width, height)

        def read() -> None:
            mujoco.mjr_render(area, camera.scene.ptr, contexts.mujoco.ptr)
            mujoco.mjr_readPixels(image, depth, area, contexts.mujoco.ptr)

        camera.update()
        with camera.scene.override_flags(self._flags), contexts.gl.make_current() as context:
            context.call(read)
        return contexts.gl.to_pixels(image), contexts.gl.to_pixels(depth) < 1.0  # 1: nothing up to the horizon
