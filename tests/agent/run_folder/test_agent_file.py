"""Files of agents: what is in them, what may be left out of them, and what is refused."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save

from agent import load
from agent.learning.agent import Agent
from agent.run_folder.agent_file import Card, agent_bytes, is_agent_file, read_agent_file, write_agent_file
from agent.run_folder.checkpoint import write_checkpoint
from agent.run_folder.weights import for_acting, weights_of
from tests.agent.learning.small_agent import make_agent, make_chunk

WHOLE = {  # every part that has weights which only losses read
    "world_model__encoder_config__gram_fraction": 0.5,
    "world_model__encoder_config__motion_dim": 8,
    "world_model__perceiver_config__enabled": True,
    "world_model__attention_config__enabled": True,
    "world_model__slow_config__every": 2,
    "world_model__prior_config__action_path": True,
    "optimizer__average_decay": 0.5,
}
KEYS = {"config", "action_dim", "is_discrete", "updates", "env_frames", "version", "commit", "curve", "evaluation"}


def card_of(agent: Agent, **changes) -> Card:
    card = Card(asdict(agent.config), agent.action_dim, agent.is_discrete, 3, 40, "0.1.0", None, [[20, 1.5]], None)
    return replace(card, **changes)


@pytest.fixture(scope="module")
def agent() -> Agent:
    made = make_agent(**WHOLE)
    for _ in range(2):
        made.update(make_chunk(2, 8))
    return made


@pytest.fixture(scope="module")
def content(agent) -> bytes:
    return agent_bytes(card_of(agent), for_acting(weights_of(agent)))


def written(path, content: bytes):
    path.write_bytes(content)
    return path


def test_weights_are_the_averages_rounded_to_half_precision(agent, content, tmp_path):
    loaded = load(written(tmp_path / "a.aime", content), "cpu")
    averages = agent.average.state_dict()
    assert not torch.equal(averages["model.reward_head.net.1.weight"], agent.model.reward_head.net[1].weight)
    compared = [name for name, _ in loaded.named_weights() if name in for_acting(averages)]
    weights = dict(loaded.named_weights())
    for name in compared:
        np.testing.assert_array_equal(weights[name].detach(), averages[name].numpy().astype(np.float16), name)
    assert len(compared) > 100
    assert (loaded.updates, loaded.config, loaded.action_dim) == (3, agent.config, 1)
    assert content == agent_bytes(card_of(agent), for_acting(weights_of(agent)))  # the same agent, the same file


def test_neither_acting_nor_dreaming_reads_what_is_left_out(agent):
    """With nan in all that a file lacks, actions, dreams and the pictures of `record --dream` are what they were."""
    chunk = make_chunk(1, 8)
    frames = chunk.image.movedim(-1, 2).float() / 255

    def seen(player: Agent) -> list[torch.Tensor]:
        state, found = player.initial_state(1), []
        for t in range(3):
            action, state = player.act(chunk.image[:, t].numpy(), np.array([t == 0]), state, "deterministic")
            found.append(torch.from_numpy(action))
        player.model.eval()
        with torch.no_grad():
            outputs = player.model.forward_sequence(frames, chunk.action, sample=False)
            start = outputs["states"].map(lambda x: x[:, -1])
            value = player.actor_critic.critic.value
            dream = player.model.rollout(start, chunk.action, torch.Generator().manual_seed(0), value=value)
        found += [outputs["reconstructions"], outputs["attention_maps"], dream.rewards, dream.continues]
        return [*found, dream.values, dream.frames]

    whole, part = make_agent(**WHOLE), make_agent(**WHOLE)
    kept = for_acting(weights_of(part))
    left_out = {name for name in weights_of(part) if name not in kept}
    assert {name.split(".")[1] for name in left_out} == {"teacher", "motion", "perceiver", "slow_critic"}
    for place in ("model", "actor_critic"):
        for name, value in getattr(part, place).state_dict().items():
            if f"{place}.{name}" in left_out:
                value.fill_(float("nan"))
    for before, after in zip(seen(whole), seen(part), strict=True):
        assert before.isfinite().all()
        assert torch.equal(before, after)


def test_numbers_that_half_precision_cannot_hold_stay_as_they_are(agent, tmp_path):
    weights = for_acting(weights_of(agent))
    name = "model.decoder.to_pixels.0.bias"
    weights[name] = torch.full_like(weights[name], 1e6)
    write_agent_file(tmp_path / "deep" / "a.aime", card_of(agent), weights)
    stored = load_tensors((tmp_path / "deep" / "a.aime").read_bytes())
    assert {n for n, x in stored.items() if x.is_floating_point() and x.dtype != torch.float16} == {name}
    assert bool((read_agent_file(tmp_path / "deep" / "a.aime").weights[name] == 1e6).all())
    weights[name][0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        write_agent_file(tmp_path / "b.aime", card_of(agent), weights)
    assert not (tmp_path / "b.aime").exists()


def test_a_file_is_half_as_large_as_its_numbers_in_float32(agent, content):
    numbers = sum(value.numel() for value in for_acting(weights_of(agent)).values() if value.is_floating_point())
    assert 2 * numbers < len(content) < 2 * numbers + 60_000


def test_a_file_is_known_by_its_beginning(content, tmp_path):
    assert is_agent_file(written(tmp_path / "renamed", content))
    assert not is_agent_file(written(tmp_path / "other", b"0123456789"))
    assert not is_agent_file(tmp_path)
    assert load(str(tmp_path / "renamed"), "cpu").updates == 3


def metadata_of(content: bytes) -> dict:
    size = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["aime.agent"])


def forged(content: bytes, metadata=None, card=None, **weights) -> bytes:
    """The file with other metadata, other values in its card, and other weights (None: without one)."""
    found = metadata_of(content)
    found["card"] |= card or {}
    tensors = {name: value for name, value in (load_tensors(content) | weights).items() if value is not None}
    if not isinstance(metadata, str):
        metadata = json.dumps(found | (metadata or {}))
    return save(tensors, {"aime.agent": metadata})


BIAS = "model.decoder.to_pixels.0.bias"
TOKENS = "model.perceiver.tokenizer.quantizer.idle_updates"
SCORES = {"seeds": [0], "returns": ["x"], "mean": 1.0, "std": None, "interval_low": None, "interval_high": None}
SCORES |= {"action_repeat": 1, "render": "fast"}
FORGERIES = {
    "a newer version": ({"metadata": {"version": 2}}, "format version 2, expected 1; a newer version"),
    "no version": ({"metadata": {"version": "one"}}, "metadata.version: got 'one', expected a whole number"),
    "no JSON": ({"metadata": "{"}, "card: not readable as JSON"),
    "deep JSON": ({"metadata": "[" * 10**5}, "card: not readable as JSON"),
    "a list": ({"metadata": "[]"}, "metadata: got a list of 0, expected a dict"),
    "a card of text": ({"metadata": {"card": "x"}}, "metadata.card: got 'x', expected a dict"),
    "an unknown key": ({"card": {"extra": 1}}, "card: got a dict with 'extra'"),
    "updates": ({"card": {"updates": -1}}, "card.updates: got -1, expected a whole number of at least 0"),
    "a curve": ({"card": {"curve": [[1, "x"]]}}, "card.curve[0][1]: got 'x', expected a finite number"),
    "an infinite return": ({"card": {"curve": [[1, float("inf")]]}}, "card.curve[0][1]: got inf"),
    "an evaluation": ({"card": {"evaluation": {"deterministic": SCORES, "sample": SCORES}}}, "returns[0]: got 'x'"),
    "no settings": ({"card": {"config": {"tasks": "x"}}}, "the nearest known one is 'task'"),
    "a wide model": ({"card": {"action_dim": 10**9}}, "config: got a model that is larger than its file"),
    "other actions": ({"card": {"action_dim": 2}}, "expected a tensor ["),
    "a baseline": ({"card": {"config": {"algo": "sac"}}}, "config.algo: got 'sac', expected 'aime'"),
    "a weight less": ({BIAS: None}, f"weights: got a dict without '{BIAS}'"),
    "a weight more": ({"model.extra": torch.zeros(2)}, "weights: got a dict with 'model.extra'"),
    "another shape": ({BIAS: torch.zeros(3)}, f"weights.{BIAS}: got torch.float32 [3], expected a tensor ["),
    "another whole type": ({TOKENS: torch.zeros(16, dtype=torch.uint16)}, "got torch.uint16, expected torch.int64"),
    "another type": ({"model.frame_norm.is_initialised": torch.zeros(())}, "got torch.float32, expected torch.bool"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_file_is_one_line(content, tmp_path, name):
    changes, expected = FORGERIES[name]
    path = written(tmp_path / "a.aime", forged(content, **changes))
    with pytest.raises(ValueError, match=r"^agent: got '") as caught:
        read_agent_file(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_that_are_not_finite_are_refused(content, tmp_path):
    for wrong in (torch.nan, torch.inf):
        bias = torch.full_like(load_tensors(content)[BIAS], wrong)
        path = written(tmp_path / "a.aime", forged(content, **{BIAS: bias}))
        with pytest.raises(ValueError, match=f"weights.{BIAS}: got numbers that are not finite"):
            load(path)


@pytest.mark.parametrize("kept", [0, 5, 9, 400, 0.5, -1])
def test_a_file_that_is_cut_is_one_line(content, tmp_path, kept):
    size = int(kept * len(content)) if isinstance(kept, float) else kept
    path = written(tmp_path / "a.aime", content[:size])
    with pytest.raises(ValueError, match=r"a\.aime', cut, damaged or another file .*expected a file that") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "a.aime"
    write_checkpoint(path, {"kind": "x"})
    with pytest.raises(ValueError, match="cut, damaged or another file"):
        read_agent_file(path)
    with pytest.raises(FileNotFoundError, match=r"b\.aime', expected a file that .* \(no such file\)"):
        read_agent_file(tmp_path / "b.aime")
    written(path, save({"weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match="safetensors without an agent's card"):
        load(path)


def test_the_card_can_be_read_without_this_program(content):
    metadata = metadata_of(content)
    assert metadata["version"] == 1
    card = metadata["card"]
    assert set(card) == KEYS
    assert (card["config"]["task"], card["config"]["seed"], card["curve"]) == ("reaching", 0, [[20, 1.5]])
