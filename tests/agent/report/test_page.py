"""What is gathered of a small run, and the page: well-formed, self-contained, complete; in a browser its slider works.

All that needs the gathered data is in this file, so that they are gathered once.
"""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from agent import load
from agent.report.gather import ReportData, gather
from agent.report.page import PARTS, render
from run_agent import main

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "img", "input", "br"}
# Moves the slider, then clicks on a lane, and leaves what the page shows in its title.
SCRIPT = """
<script>
window.addEventListener("load", () => setTimeout(() => {
  const player = document.querySelector("#watch .player"), video = player.querySelector("video");
  const slider = player.querySelector("input"), head = player.querySelector(".head");
  const found = [];
  const note = () => found.push([Number(slider.value), video.currentTime, head.style.left,
                                 player.querySelector(".readout").textContent]);
  note();
  slider.value = "7";
  slider.dispatchEvent(new Event("input"));
  note();
  const track = player.querySelector("[data-track]"), box = track.getBoundingClientRect();
  const at = {clientX: box.left + box.width * 3.5 / 11, clientY: box.top + 1, bubbles: true};
  track.dispatchEvent(new PointerEvent("pointerdown", at));
  note();
  document.body.style.width = "390px";  // a phone's; Chromium's windows are at least 500 wide
  document.title = JSON.stringify({found, seconds: video.duration, width: video.videoWidth,
    overflow: document.body.scrollWidth - 390});
}, 500));
</script></body>"""


class Checker(HTMLParser):
    """Collects what is wrong with the nesting, all ids and all references."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.unnamed: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given[name] or "" for name in ("src", "href") if name in given]
        if (tag == "img" and not given.get("alt")) or (tag == "video" and not given.get("aria-label")):
            self.unnamed.append(tag)
        if tag == "svg" and "aria-hidden" not in given and "aria-labelledby" not in given:
            self.unnamed.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"{tag} at {self.getpos()}")


@pytest.fixture(scope="module")
def gathered(finished_run: Path) -> ReportData:
    return gather(load(finished_run), finished_run, 4, 0)


@pytest.fixture(scope="module")
def page(gathered: ReportData) -> str:
    return render(gathered)


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert (checker.open, checker.faults) == ([], [])
    assert len(set(checker.ids)) == len(checker.ids)
    assert checker.unnamed == []
    return checker


def test_the_card_tells_what_counting_pays(gathered):
    # `counting` pays t for frame t, 1 to 10, whatever is done; dreams of five steps begin after frames 4 and 5
    card = gathered.card
    assert gathered.rows == 4 * 11
    assert len(card.frame.mean) == len(card.reward.mean) == 5
    assert card.rewards_seen.came.mean() == pytest.approx(5, abs=0.1)  # the mean of 0, 1, ..., 10, in groups of 4 or 5
    starts = [4] * 15 + [5]
    expected = [np.mean([abs(start + k - 5) for start in starts]) for k in range(1, 6)]
    assert card.mean_reward.mean == pytest.approx(expected)
    assert card.still.mean[0] < card.still.mean[4]  # the frame changes with every step
    assert card.state["r2"]["frame"]["step"]["value"] > 0.95  # the brightness of half the frame


def test_pictures_are_those_of_members(gathered):
    assert gathered.mixture is not None
    shown = [x for x in gathered.mixture.components if x.prototype is not None]
    assert shown
    for component in shown:
        assert component.prototype.shape == component.typical.shape == (64, 64, 3)
        assert 1 <= len(component.examples) <= 3
    assert sum(x.share for x in gathered.mixture.components) == pytest.approx(1)


def test_a_fault_in_the_nesting_would_be_found():
    checker = Checker()
    checker.feed("<p><b>a</p>")
    assert checker.faults


def test_the_page_is_well_formed_and_needs_no_network(page):
    checker = checked(page)
    anchors = {link[1:] for link in checker.links if link.startswith("#")}
    assert anchors == set(PARTS) <= set(checker.ids)
    assert all(link.startswith(("data:", "#")) for link in checker.links)
    without_data = re.sub(r"data:[\w/]+;base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|@import|url\((?!#)", without_data)
    assert "default-src 'none'" in page
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", re.sub(r"<(style|script).*?</\1>", "", without_data, flags=re.S))


def test_the_page_says_what_was_gathered(page, gathered):
    text = re.sub(r"<[^>]+>", "", page)
    score = gathered.run.score
    assert "counting with preset debug, seed 0: a return of" in text
    assert score.mean == 55  # 1 + 2 + ... + 10
    assert "120 env_frames" in text
    assert "4 held-out episodes, 44 rows" in text
    state = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S)[1])
    assert state["series"]["reward"] == list(range(11))
    assert state["series"]["expected, dreaming"][:5] == [None] * 5  # five frames are seen first
    assert len(state["component"]) == 11


def test_pillars_that_are_off_are_told_in_a_line(gathered):
    view = replace(gathered.view, shares=None, has_slots=False)
    run = replace(gathered.run, curves=None, conflicts=[], published=[])
    bare = replace(gathered, run=run, view=view, mixture=None, codebook=None, attention=None)
    page = render(bare)
    checked(page)
    for line in ("one Gaussian", "Perceiver is off", "attention schema is off", "no cosines", "no evaluation yet"):
        assert line in page


def test_a_gif_is_shown_where_no_mp4_can_be_written(gathered):
    view = replace(gathered.view, video=replace(gathered.view.video, suffix=".gif"))
    page = render(replace(gathered, view=view))
    checked(page)
    assert "data:image/gif" in page
    assert "it cannot be scrubbed" in page


@pytest.mark.skipif(BROWSER is None, reason="no Chromium (Debian: apt-get install chromium)")
def test_a_browser_shows_it_without_errors_and_the_slider_works(page, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", SCRIPT), encoding="utf-8")
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=8000", "--window-size=500,900"]
    done = subprocess.run([*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    shown = json.loads(re.search(r"<title>(\{.*?)</title>", done.stdout)[1].replace("&quot;", '"'))
    start, moved, clicked = shown["found"]
    assert (start[0], moved[0], clicked[0]) == (0, 7, 3)
    fps = 11 / shown["seconds"]
    assert moved[1] == pytest.approx(7.5 / fps, abs=0.02)
    assert clicked[1] == pytest.approx(3.5 / fps, abs=0.02)
    assert (moved[2], clicked[2]) == (f"{100 * 7.5 / 11:.4f}%", f"{100 * 3.5 / 11:.4f}%")
    assert "reward7.00" in moved[3]
    assert shown["overflow"] <= 0
    assert shown["width"] == 524


# ---------------------------------------------------------------- the command


def test_the_command_writes_the_page_and_keeps_the_run_as_it_is(run_copy, tmp_path, capsys):
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    out = tmp_path / "deep" / "page.html"
    assert main(["report", f"--logdir={run_copy}", f"--out={out}", "--episodes=4"]) == 0
    assert f"written to {out} (" in capsys.readouterr().out
    checked(out.read_text(encoding="utf-8"))
    assert [path.name for path in out.parent.iterdir()] == ["page.html"]
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before
    assert main(["report", f"--logdir={run_copy}", f"--out={out}", "--episodes=4"]) == 2
    assert "which exists, expected a new name (or --overwrite)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--episodes=3"], "episodes: got 3, expected at least 4"),
        (["--out=page.pdf"], "out: got 'page.pdf', expected a name ending in .html"),
        (["--out=/proc/page.html"], "out: got '/proc', but '/proc' is not writable"),
        (["--logdir=nowhere"], "nowhere"),
        (["--epsodes=4"], "episodes"),
    ],
)
def test_bad_input_is_one_line(run_copy, options, line, capsys):
    assert main(["report", f"--logdir={run_copy}", *options]) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert line in error
    assert not (run_copy / "report.html").exists()


def test_episodes_without_room_for_a_dream_are_one_line(run_copy, monkeypatch, capsys):
    monkeypatch.setattr("agent.report.gather.CONTEXT", 10)  # of the 11 frames of `counting`
    assert main(["report", f"--logdir={run_copy}", "--episodes=4"]) == 2
    assert "task: got episodes of 11 frames, expected more than 11" in capsys.readouterr().err
    assert not (run_copy / "report.html").exists()


@pytest.mark.parametrize(("missing", "line"), [("checkpoints", "no checkpoint in"), ("metrics.jsonl", "metrics.jsonl")])
def test_a_run_without_its_parts_is_one_line(run_copy: Path, missing, line, capsys):
    place = run_copy / missing
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert main(["report", f"--logdir={run_copy}"]) == 2
    [error] = capsys.readouterr().err.splitlines()
    assert line in error
    assert not (run_copy / "report.html").exists()
