"""Agents on the Hugging Face Hub, with a local folder in its place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agent.run_folder.agent_file import read_agent_file, write_agent_file
from agent.run_folder.hub import model_card
from agent.run_folder.places import find_agent, short_name
from agent.run_folder.weights import for_acting, weights_of
from run_agent import main
from tests.agent.commands.test_sharing import refused
from tests.agent.learning.small_agent import make_agent
from tests.agent.run_folder.test_agent_file import card_of

hub = pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")

ROOT = Path(__file__).resolve().parents[3]
SCORES = {"seeds": [5, 6], "returns": [1.0, 2.0], "mean": 1.5, "std": 0.5, "interval_low": 1.0, "interval_high": 2.0}
SCORES |= {"action_repeat": 1, "render": "fast"}


class LocalApi:
    """What `push` needs of HfApi, on a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.user = root, "me"

    def whoami(self) -> dict[str, str]:
        if not self.user:
            raise hub.errors.LocalTokenNotFoundError("Token is required, but no token found.\nLog in.")
        return {"name": self.user}

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> str:
        (self.root / name).mkdir(parents=True, exist_ok=exist_ok)
        (self.root / name / "visibility").write_text("private" if private else "public")
        return f"https://hub.example/{name}"

    def create_commit(self, repo_id: str, operations: list, commit_message: str) -> None:
        assert len(commit_message.splitlines()) == 1
        for added in operations:
            (self.root / repo_id / added.path_in_repo).write_bytes(added.path_or_fileobj)


@pytest.fixture
def local(tmp_path, monkeypatch) -> LocalApi:
    api = LocalApi(tmp_path / "hub")

    def download(repo_id: str, filename: str) -> str:
        path = api.root / repo_id / filename
        if not path.is_file():
            raise hub.errors.LocalEntryNotFoundError(f"Cannot find {filename} on the Hub\nor in the cache.")
        return str(path)

    monkeypatch.setattr(hub, "HfApi", lambda: api)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    return api


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    agent = make_agent()
    path = tmp_path_factory.mktemp("agents") / "small.aime"
    card = card_of(agent, evaluation={"deterministic": SCORES, "sample": SCORES | {"std": None}}, commit="0123abc")
    write_agent_file(path, card, for_acting(weights_of(agent)))
    return path


def test_an_agent_goes_to_the_hub_and_comes_back(capsys, local, file):
    assert main(["push", f"--agent={file}", "--hub=me/small", "--private"]) == 0
    out = capsys.readouterr().out
    assert "return 1.5 over 2 deterministic episodes" in out
    assert "uploaded to https://hub.example/me/small (" in out
    folder = local.root / "me" / "small"
    assert {path.name for path in folder.iterdir()} == {"agent.aime", "README.md", "visibility"}
    assert (folder / "visibility").read_text() == "private"
    fetched = find_agent("hub:me/small")
    assert fetched.read_bytes() == file.read_bytes()
    assert short_name("hub:me/small") == "small"


def test_a_run_goes_to_the_hub(local, finished_run):
    assert main(["push", f"--logdir={finished_run}", "--hub=me/run", "--commit=0123456"]) == 0
    card = read_agent_file(find_agent("hub:me/run")).card
    assert (card.config["task"], card.env_frames, card.commit) == ("counting", 120, "0123456")


def test_the_model_card_is_of_the_hubs_format(file):
    text = model_card("me/small", read_agent_file(file).card)
    card = hub.ModelCard(text)
    [result] = card.data.eval_results
    assert (result.task_type, result.dataset_type) == ("reinforcement-learning", "reaching")
    assert (result.metric_type, result.metric_value) == ("mean_reward", "1.50 +/- 0.50")
    block = yaml.safe_load(text.split("---")[1])
    assert block["model-index"][0]["name"] == "small"
    assert {"reinforcement-learning", "reaching"} <= set(block["tags"])
    assert (block["library_name"], block["pipeline_tag"]) == ("aime-rl", "reinforcement-learning")
    assert "| deterministic | 1.5 [1.0, 2.0] | 2 |" in card.text
    assert "record --agent hub:me/small --dream" in card.text


def test_an_agent_that_was_not_evaluated_has_no_metrics():
    card = card_of(make_agent())
    text = model_card("me/small", card)
    assert "model-index" not in text
    assert "95 % interval" not in text


def test_what_the_hub_does_not_have_is_one_line(capsys, monkeypatch, local, file, tmp_path):
    monkeypatch.chdir(tmp_path)
    error = refused(capsys, "record", "--agent=hub:me/nothing")
    assert "agent: got 'hub:me/nothing', expected the user/name of an agent on the Hub (Cannot find" in error
    for name in ("me", "me/a/b", "me/ü", "/a"):
        assert f"hub: got '{name}', expected user/name" in refused(capsys, "push", f"--agent={file}", f"--hub={name}")
    local.user = ""
    assert "and a login (Token is required" in refused(capsys, "push", f"--agent={file}", "--hub=me/a")
    assert not (tmp_path / "hub").exists()


def test_an_upload_that_breaks_off_is_one_line(capsys, monkeypatch, local, file):
    def fail(**_: object) -> None:
        raise ConnectionResetError("the line went dead\nfor ever")

    monkeypatch.setattr(local, "create_commit", fail, raising=True)
    assert main(["push", f"--agent={file}", "--hub=me/a"]) == 1
    assert "hub: 'me/a' could not be written (the line went dead for ever)" in capsys.readouterr().err


def test_without_the_library_a_line_says_what_to_install(capsys, monkeypatch, file):
    monkeypatch.setattr("envs.packages.find_spec", lambda name: None)
    for argv in (["push", f"--agent={file}", "--hub=me/a"], ["evaluate", "--agent=hub:me/a"]):
        assert "pip install 'huggingface_hub>=2,<3'" in refused(capsys, *argv)


def test_without_a_network_the_library_itself_is_one_line(tmp_path):
    """In a process of its own, where nothing else has imported the library's modules."""
    code = """
from agent.run_folder import hub
for ask in (hub.fetch, hub.check_login):
    try:
        ask("me/none")
    except ValueError as error:
        print(error)
"""
    env = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    env |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env, timeout=200)
    fetched, logged_in = done.stdout.splitlines()
    assert fetched.startswith("agent: got 'hub:me/none', expected the user/name of an agent on the Hub (")
    assert logged_in.startswith("hub: got 'me/none', expected user/name and a login (")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_downloads_of_the_library_itself_are_found_without_a_network(monkeypatch, tmp_path, file):
    """The cache of huggingface_hub, as it lays it out: what was downloaded once is there offline."""
    commit = "0" * 40
    folder = tmp_path / "models--me--small"
    for path, content in (("refs/main", commit.encode()), (f"snapshots/{commit}/agent.aime", file.read_bytes())):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(content)
    real = hub.hf_hub_download
    monkeypatch.setattr(
        hub, "hf_hub_download", lambda **given: real(**given, cache_dir=tmp_path, local_files_only=True)
    )
    assert find_agent("hub:me/small").read_bytes() == file.read_bytes()
    with pytest.raises(
        ValueError, match=r"got 'hub:me/other', expected the user/name of an agent on the Hub"
    ) as caught:
        find_agent("hub:me/other")
    assert "\n" not in str(caught.value)
