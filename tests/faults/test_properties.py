"""Properties that hold for whatever Hypothesis thinks of: settings, sampling, episode files, environments."""

import json

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.nested import flatten
from agent.config.presets import make_config, parse_overrides
from envs import make_env
from envs.pixels import EpisodeStart
from replay import Episode, ReplayBuffer
from replay.episode_file import decode, encode
from world_model.settings import from_mapping

quick = settings(max_examples=25, derandomize=True, deadline=None, database=None)
small = settings(max_examples=8, derandomize=True, deadline=None, database=None)

OVERRIDES = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**40),
        "env_frames": st.integers(1, 10**9),
        "behavior.gamma": st.floats(0.01, 1.0),
        "optimizer.model_lr": st.floats(1e-8, 1.0),
        "replay.capacity_gb": st.floats(0.1, 1e6),
        "world_model.hidden_dim": st.integers(1, 4096),
        "train.log_every": st.integers(1, 1000),
        "env.render": st.sampled_from(["fast", "standard"]),
        "compile": st.booleans(),
    },
)


@quick
@given(OVERRIDES)
def test_a_config_survives_its_file(overrides):
    from dataclasses import asdict

    config = make_config("debug", "reaching", overrides)
    written = yaml.safe_dump(asdict(config), sort_keys=False)
    assert from_mapping(type(config), yaml.safe_load(written)) == config
    told = dict(flatten(asdict(config)))
    assert all(told[key] == value for key, value in overrides.items())


@small
@given(OVERRIDES)
def test_options_mean_what_settings_mean(overrides):
    options = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in overrides.items()]
    assert parse_overrides(options, "debug", "reaching") == make_config("debug", "reaching", overrides)


@quick
@given(st.sampled_from(["seed", "env_frames", "behavior.gamma", "env", "task", "compile"]), st.data())
def test_a_value_of_another_type_is_one_line(key, data):
    wrong = data.draw(st.one_of(st.just([1]), st.just(b"x"), st.just(float("nan")), st.just({1: 2}), st.just(1j)))
    values: dict = {}
    place = values
    *blocks, last = key.split(".")
    for block in blocks:
        place = place.setdefault(block, {})
    place[last] = wrong
    with pytest.raises(ValueError, match=r"got .*") as caught:
        from_mapping(type(make_config("debug")), values)
    assert "\n" not in str(caught.value)


def numbered(length: int, first: int) -> Episode:
    """Row t's pixel and reward say which row of all it is."""
    steps = np.arange(length)
    image = np.zeros((length, 2, 2, 3), np.uint8)
    image[:, 0, 0, 0], image[:, 0, 0, 1] = (first + steps) % 256, (first + steps) // 256
    action = np.zeros((length, 1), np.float32)
    is_last = steps == length - 1
    return Episode(image, np.zeros(length, np.float32), steps == 0, is_last, np.zeros(length, bool), action)


@quick
@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(30, 80), st.data())
def test_a_chunk_is_consecutive_rows_of_the_newest(lengths, capacity, data):
    buffer = ReplayBuffer(capacity, action_dim=1, image_shape=(2, 2, 3))
    total = 0
    for length in lengths:
        buffer.add_episode(numbered(length, total))
        total += length
    size = min(total, capacity)
    assert len(buffer) == size
    chunk = buffer.sample(data.draw(st.integers(1, 5)), data.draw(st.integers(1, size)))
    pixels = chunk.image[:, :, 0, 0].long()
    rows = pixels[..., 0] + 256 * pixels[..., 1]
    assert bool((rows.diff(dim=1) == 1).all())
    assert int(rows.min()) >= total - size
    assert int(rows.max()) < total
    ends = set(np.cumsum(lengths) - 1)
    assert bool(chunk.is_last.equal((rows[..., None] == rows.new_tensor(sorted(ends))).any(-1)))


@quick
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32 - 1), st.data())
def test_an_episode_file_is_the_episode_and_any_flip_shows(length, action_dim, size, seed, data):
    random, steps = np.random.default_rng(seed), np.arange(length)
    image = random.integers(0, 256, (length, size, size, 3), dtype=np.uint8)
    action = random.uniform(-1, 1, (length, action_dim)).astype(np.float32)
    reward = random.normal(size=length).astype(np.float32)
    flags = random.integers(0, 2, (3, length)).astype(bool)
    episode = Episode(image, reward, *flags, action)
    encoded = encode(episode, {"steps": steps.tolist()})
    decoded, metadata = decode(encoded)
    assert metadata == {"steps": steps.tolist()}
    for ours, theirs in zip(episode.fields().values(), decoded.fields().values(), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()
    flipped = bytearray(encoded)
    flipped[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(ValueError, match=r"^[a-z]+: "):
        decode(bytes(flipped))
    with pytest.raises(ValueError, match=r"^[a-z]+: "):
        decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@small
@given(st.integers(0, 2**31), st.integers(1, 4), st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=6))
def test_an_environment_begun_in_an_episode_is_where_it_was(seed, repeat, actions):
    """Actions beyond [-1, 1] are played as the nearest bounds; seed, number and actions say all about an episode."""
    taken = np.array(actions, np.float32)[:, None]
    first = make_env("reaching", seed=seed, action_repeat=repeat)
    second = make_env("reaching", seed=seed, action_repeat=repeat)
    third = make_env("reaching", seed=seed, action_repeat=repeat)
    try:
        first.reset()
        second.reset()
        for action in taken:
            frame, reward, *_ = first.step(action)
            clipped, same, *_ = second.step(np.clip(action, -1, 1))
            np.testing.assert_array_equal(frame, clipped)
            assert reward == same
        third.begin_at(EpisodeStart(0, np.clip(taken, -1, 1)))
        np.testing.assert_array_equal(third.reset()[0], frame)
    finally:
        for env in (first, second, third):
            env.close()
