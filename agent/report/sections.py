"""The page's sections about the run and its predictions: summary, returns, player, dreams, report card."""

import json
from collections.abc import Sequence
from html import escape

import numpy as np

from agent.evaluation.references import Reference, protocol_differences
from agent.report.dreams import Band, Calibration
from agent.report.episode import CONTEXT, STRETCH, EpisodeView, Video
from agent.report.gather import HORIZON, ModelCard, ReportData, RunFacts
from agent.report.html import (
    DASH,
    details,
    duration,
    grid,
    interval,
    number,
    percent,
    picture_uri,
    section,
    table,
    video,
)
from agent.report.probes import SOURCES
from agent.report.svg import Line, calibration_chart, hexes, legend, line_chart, strip, traces

PANELS = ("what happened", "agent's view", "reconstruction", "dream", "attention")
DIGITS = ".0f", ".1f"
SHORT = {"action repeat": "repeat", "env_frames": "budget"}


def score_form(run: RunFacts) -> str:
    """Return the format of returns: whole numbers from 100 on."""
    return DIGITS[abs(run.score.mean) < 100]


def sentence(run: RunFacts) -> str:
    """Return the run in one sentence."""
    config, cost, form = run.config, run.cost, score_form(run)
    score = interval(run.score.mean, run.score.low, run.score.high, form)
    return (
        f"<b>{escape(config.task)}</b> with preset {escape(config.preset)}, seed {config.seed}: a return of "
        f"<b>{score}</b> after {cost.env_frames:,} env_frames and {cost.updates:,} updates, in "
        f"{duration(cost.hours)} on {escape(cost.device)}."
    )


def tiles(data: ReportData) -> str:
    """Return the figures that a reader looks for first."""
    run, form = data.run, score_form(data.run)
    bad = [monitor for monitor in run.health.monitors if monitor.verdict == "out of range"]
    best = max(run.published, key=lambda found: found.mean, default=None)
    entries = [
        ("return", number(run.score.mean, form), f"95 % of its mean: {_bounds(run, form)}; {escape(run.score.source)}"),
        ("dreamt frames hold for", *_hold(data.card.better_frames, len(data.card.frame.mean), "mean frame")),
        ("dreamt rewards hold for", *_hold(data.card.better_rewards, len(data.card.frame.mean), "mean reward")),
        ("health", f"{len(bad)} of {len(run.health.monitors)}", "monitors out of range at the end"),
    ]
    if best is not None:
        where = f"{best.name} at {best.env_frames:,}, the best published score nearest in budget"
        entries.insert(1, ("published", number(best.mean, form), where))
    items = "".join(f"<li><span>{name}</span><b>{value}</b><small>{text}</small></li>" for name, value, text in entries)
    return f'<ul class="tiles">{items}</ul>'


def _hold(steps: int, horizon: int, control: str) -> tuple[str, str]:
    """Return for how many steps a dream is nearer to what came than a control, and what that means."""
    if steps == horizon:
        return f"{steps}+ steps", f"the {control} is never as near to what came"
    return f"{steps} steps", f"from then on the {control} is as near to what came"


def _bounds(run: RunFacts, form: str) -> str:
    if not np.isfinite(run.score.low):
        return "no interval from one episode"
    return f"{run.score.low:z{form}} to {run.score.high:z{form}}"


def returns(run: RunFacts) -> str:
    """Return the section of learning curves and published scores."""
    parts = [_curves(run)] if run.curves is not None else ['<p class="note">The log has no evaluation yet.</p>']
    if run.published:
        parts.append(_published(run))
    form = score_form(run)
    verdict = (
        f"{interval(run.score.mean, run.score.low, run.score.high, form)}, the mean of {escape(run.score.source)}."
    )
    same = [found for found in run.published if not _differs(found, run)]
    if same:
        above = sum(found.mean > run.score.mean for found in same)
        verdict += (
            f" Of {len(same)} published scores with the same action repeat and budget, {above or 'none'} is higher."
        )
        verdict = verdict.replace(f"{above} is", f"{above} are") if above > 1 else verdict
    elif run.published:
        verdict += " No published score has the same action repeat and budget: they show where others are."
    else:
        verdict += " No published score is known for this task."
    return section("returns", "Returns", verdict, grid(*parts))


def _differs(found: Reference, run: RunFacts) -> list[str]:
    return protocol_differences(found, run.config.env.action_repeat, run.cost.env_frames)


def _curves(run: RunFacts) -> str:
    assert run.curves is not None
    lines = [Line(curve.label, curve.x, curve.mean, f"grey dash{i}") for i, curve in enumerate(run.curves.references)]
    for seeds in run.curves.training:
        lines += [Line("training episodes, mean of five", x, y, "c5 thin") for x, y in seeds]
    lines += [Line("evaluations while training", curve.x, curve.mean, "c0") for curve in run.curves.curves]
    return line_chart("Return over env_frames", lines, ("env_frames", "return"))


def _published(run: RunFacts) -> str:
    form = score_form(run)
    own = f"{number(run.score.mean, form)} {_spread(run)}"
    rows = [("<b>this run</b>", own, f"{run.cost.env_frames:,}", str(run.config.env.action_repeat), DASH)]
    for found in sorted(run.published, key=lambda found: -found.mean):
        std = "" if found.std is None else f" ± {found.std:.0f}"
        differs = _differs(found, run)
        protocol = "same" if not differs else "other " + ", ".join(SHORT[name] for name in differs)
        numbers = (f"{found.mean:.0f}{std}", f"{found.env_frames:,}", str(found.action_repeat))
        rows.append((escape(found.name), *numbers, protocol))
    head = ("method", "return", "env_frames", "repeat", "protocol")
    return f"<figure><figcaption>Published scores, each nearest in budget</figcaption>{table(head, rows)}</figure>"


def _spread(run: RunFacts) -> str:
    return f"[{run.score.low:.0f}, {run.score.high:.0f}]" if np.isfinite(run.score.low) else ""


# ---------------------------------------------------------------- the player


def player(data: ReportData) -> str:
    """Return the section of the episode that can be scrubbed."""
    view, rewards = data.view, data.view.reward
    told = (
        f"A held-out episode with sampled actions: return {rewards.sum():.1f}. The dream sees {CONTEXT} frames, then "
        f"only the actions; every {STRETCH} steps it sees one frame again (the ticks under the slider)."
    )
    labels = "".join(f'<span class="label p{i}">{name}</span>' for i, name in enumerate(_panels(view)))
    shown = _playable(view.video, "An episode: " + ", ".join(PANELS), len(rewards), view.fps, labels, view.restarts)
    stage = (
        f'<div class="stage"><div>{shown}{_timelines(view)}</div><aside class="readout" aria-live="off"></aside></div>'
    )
    return section("watch", "Watch it", told, f'<div class="player">{stage}{_state(data)}</div>')


def _playable(found: Video, text: str, rows: int, fps: float, labels: str = "", ticks: Sequence[int] = ()) -> str:
    """Return a video with a button and a slider of its rows; a gif plays by itself."""
    button = '<button type="button" aria-label="play or pause">▶</button>' if found.suffix == ".mp4" else ""
    screen = f'<div class="screen">{video(found, text)}{labels}{button}</div>'
    if found.suffix != ".mp4":
        return f'{screen}<p class="note">A gif, since no encoder of mp4 works here: it cannot be scrubbed.</p>'
    marks = "".join(f'<option value="{row}"></option>' for row in ticks)
    name = f"ticks{len(ticks)}"
    return (
        f'{screen}<div class="controls" data-rows="{rows}" data-fps="{fps:g}">'
        f'<input type="range" min="0" max="{rows - 1}" step="1" value="0" list="{name}" aria-label="row of the video">'
        f'<datalist id="{name}">{marks}</datalist></div>'
    )


def _panels(view: EpisodeView) -> tuple[str, ...]:
    return PANELS if view.has_slots else (*PANELS[:-1], "no attention")


def _timelines(view: EpisodeView) -> str:
    rows = []
    if view.shares is not None:
        index = view.shares.argmax(1)
        rows.append(
            ("component of the mixture", strip("The most responsible component over the episode", index, 10), "")
        )
    rewards = {"came": view.reward, "expected while watching": view.watched, "expected in the dream": view.dreamt}
    looks = ("c0", "c2 thin", "c1 thin")
    drawn, low, high = traces("Rewards over the episode", rewards, looks)
    names = legend(list(zip(rewards, looks, strict=True)))
    rows.append((f"reward, {low:.3g} to {high:.3g}", drawn, names))
    drawn, low, high = traces("The critic's value over the episode", {"value": view.value}, ("c3",), 60)
    rows.append((f"critic's value, {low:.3g} to {high:.3g}", drawn, ""))
    return "".join(
        f'<div class="lane"><p>{name}</p><div class="track" data-track>{drawn}<i class="head"></i></div>{below}</div>'
        for name, drawn, below in rows
    )


def _state(data: ReportData) -> str:
    """Return the traces for the script, which says their values at the row on the screen."""
    view, pictures = data.view, {}
    series = {
        "reward": view.reward,
        "expected, watching": view.watched,
        "expected, dreaming": view.dreamt,
        "critic's value": view.value,
    }
    shown = {
        name: [round(x, 3) if np.isfinite(x) else None for x in values.tolist()] for name, values in series.items()
    }
    component = None if view.shares is None else view.shares.argmax(1).tolist()
    colours = [] if view.shares is None else hexes(view.shares.shape[1])
    if data.mixture is not None:
        drawn = {found.number: found.prototype for found in data.mixture.components}
        pictures = {number: picture_uri(x) for number, x in drawn.items() if x is not None}
    state = {"series": shown, "component": component, "colours": colours, "pictures": pictures}
    text = json.dumps(state, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'


def dreams(data: ReportData) -> str:
    """Return the section of dreams under the policy."""
    found = data.imagined
    mean = float(np.mean(found.dreamt))
    verdict = (
        f"From one moment on, the policy acts in the real world (first cell) and in {len(found.dreamt)} dreams that "
        f"see no frame. {found.steps} steps bring {found.real:.1f} in reality and {mean:.1f} on average in dreams, "
        f"from {min(found.dreamt):.1f} to {max(found.dreamt):.1f}."
    )
    text = "A real episode beside dreams that begin at one of its moments"
    shown = _playable(data.dreams, text, CONTEXT + HORIZON, data.fps)
    return section("dreams", "Dreams under its own policy", verdict, f'<div class="player wide">{shown}</div>')


# ---------------------------------------------------------------- the model's report card


def card(data: ReportData) -> str:
    """Return the section on what the world model predicts."""
    found, fps = data.card, data.fps
    horizon = len(found.frame.mean)
    verdict = (
        "Dreamt frames are nearer to the real ones than the mean frame is "
        f"{_reach(found.better_frames, horizon, fps)}; dreamt rewards are nearer than the mean reward "
        f"{_reach(found.better_rewards, horizon, fps)}. Dreamt frames are nearer than the last frame seen at "
        f"{int((found.frame.mean < found.still.mean).sum())} of {horizon} steps."
    )
    both = {
        f"{name}, r = {number(pair.correlation, '.2f')}": (pair.predicted, pair.came) for name, pair in _rewards(found)
    }
    values = {f"value, r = {number(found.values.correlation, '.2f')}": (found.values.predicted, found.values.came)}
    charts = grid(
        _horizon("Frames: squared error of a dream", found.frame, found.mean_frame, "mean frame", found.still),
        _horizon("Rewards: absolute error of a dream", found.reward, found.mean_reward, "mean reward"),
        calibration_chart("Rewards: predicted and came", both, ("predicted (groups of a tenth)", "came, mean")),
        calibration_chart("Value and the return that came", values, ("critic's value", "discounted return that came")),
    )
    note = (
        f'<p class="note">{data.episodes} held-out episodes, {data.rows:,} rows. Dreams start all along them, see no '
        f"frame and follow the actions that were taken; bands are 95 % over episodes. A frame that the model has just "
        f"seen is reconstructed with an error of {found.reconstruction:.2g}. {_value_line(found)}</p>"
    )
    return section("model", "Report card of the world model", verdict, charts, note, _probes(data))


def _rewards(found: ModelCard) -> list[tuple[str, Calibration]]:
    steps = min(15, len(found.frame.mean))
    return [("while watching", found.rewards_seen), (f"{steps} steps into a dream", found.rewards_dreamt)]


def _reach(steps: int, horizon: int, fps: float) -> str:
    if steps == 0:
        return "at no step"
    if steps == horizon:
        return f"for all {horizon} steps ({horizon / fps:.1f} s)"
    return f"for the first {steps} of {horizon} steps ({steps / fps:.1f} s)"


def _horizon(title: str, dream: Band, control: Band, name: str, still: Band | None = None) -> str:
    steps = np.arange(1, len(dream.mean) + 1)
    lines = [Line(name, steps, control.mean, "grey dash0", control.low, control.high)]
    if still is not None:
        lines.append(Line("last frame seen", steps, still.mean, "c4 dash1", still.low, still.high))
    lines.append(Line("dream", steps, dream.mean, "c0", dream.low, dream.high))
    return line_chart(title, lines, ("steps into the dream", "mean error"))


def _value_line(found: ModelCard) -> str:
    value, came = float(found.values.predicted.mean()), float(found.values.came.mean())
    off = f", {percent(abs(value / came - 1))} too {'high' if value > came else 'low'}" if came > 1e-6 else ""
    return f"The critic's mean value is {value:.4g} where {came:.4g} came{off}."


def _probes(data: ReportData) -> str:
    """Return the table of linear probes, one row per variable of the simulator, one column per part of the model."""
    state = data.card.state
    if not state:
        return '<p class="note">Linear probes: this environment does not tell its simulator state.</p>'
    shown = [source for source in SOURCES[:6] if source in state["r2"]]
    names = {"frame": "frame", "z": "z", "g": "g, carry", "c": "c, context", "slots": "slots", "z g": "z and g"}
    variables = [name for name in next(iter(state["r2"].values())) if name != "mean"]
    means: list[tuple[str, ...]] = []
    for kind, title in (("qpos/", "mean of positions"), ("qvel/", "mean of velocities"), ("", "mean of all")):
        members = [name for name in variables if name.startswith(kind)]
        if members and (kind or not means):
            values = [float(np.mean([state["r2"][source][name]["value"] for name in members])) for source in shown]
            means.append((f"<b>{title}</b>", *(_cell(value, "") for value in values)))
    rows = []
    for name in variables:
        found = [state["r2"][source][name] for source in shown]
        cells = [_cell(x["value"], f"95 %: {x['low']:.2f} to {x['high']:.2f}") for x in found]
        rows.append((escape(name), *cells))
    text = (
        "R² of a ridge regression from each part to the simulator's state, learned on half of the episodes and judged "
        "on the others. 1: all of it can be read linearly; 0: no better than the mean."
    )
    head = ("variable", *(names[source] for source in shown))
    every = details(f"All {len(rows)} variables", table(head, rows, "heat"))
    caption = "What the parts know of the simulator"
    shown_means = table(head, means, "heat")
    return f'<figure><figcaption>{caption}</figcaption><p class="note">{text}</p>{shown_means}{every}</figure>'


def _cell(value: float, title: str) -> str:
    share = min(1.0, max(0.0, value))
    return f'<td style="--share:{share:.2f}" title="{title}">{value:z.2f}</td>'
