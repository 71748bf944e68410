"""The page's sections about single parts: components, tokens, slots, gradients, health, cost."""

from html import escape

import numpy as np

from agent.report.components import Component
from agent.report.gather import Codebook, MixtureLens, ReportData, RunFacts
from agent.report.html import DASH, details, duration, grid, image, number, percent, picture_uri, section, table
from agent.report.information import entropy
from agent.report.run_log import Monitor
from agent.report.svg import Line, Node, bars, figure, hexes, line_chart, ranges, sparkline, strip, transition_graph
from agent.training.health import bounds

LEAST_SWITCHES = 0.15  # share of the ways out of a component from which on the graph shows one
TOPICS = {"contacts": "the number of contacts"}
USED = 12  # codes whose share of the cells is told
IN_GRAPH = 0.005  # share of the rows from which on a component is in it


def components(data: ReportData) -> str:
    """Return the section on the mixture."""
    lens = data.mixture
    if lens is None:
        return section("components", "Components", "The prior of this run is one Gaussian: there are no components.")
    used = [component for component in lens.components if component.share > 0]
    dwell = np.concatenate([component.dwell for component in used])
    figures = lens.figures
    verdict = (
        f"{figures['in use']:.1f} of {figures['components']} components are in use. One stays in charge for "
        f"a median of {np.median(dwell):g} rows ({np.median(dwell) / data.fps:.2g} s). {_informative(lens)}"
    )
    colours = hexes(figures["components"])
    cards = "".join(_component(component, colours[component.number], data.fps) for component in used)
    rows = [(str(x.number), x.dwell.astype(float), colours[x.number]) for x in used]
    dwells = ranges("How long a component stays in charge", rows, "rows (median, 10th to 90th percentile)")
    charts = grid(_graph(lens, used), f"<div>{dwells}{_information(lens)}</div>")
    return section(
        "components",
        "Components of the mixture",
        verdict,
        f'<div class="cards">{cards}</div>',
        charts,
        _strips(lens),
        details("All transitions", _transition_table(lens, used)),
    )


def _informative(lens: MixtureLens) -> str:
    parts = []
    for name, found in lens.figures["information"].items():
        share = found["information"] / found["entropy of bins"] if found["entropy of bins"] else 0.0
        is_more = found["information"] > found["95 % of chance"]
        parts.append(
            f"{percent(share)} about {TOPICS.get(name, f'the {name}')}{'' if is_more else ' (as chance would)'}"
        )
    return f"Of what there is to know, it says {', '.join(parts)}."


def _component(found: Component, colour: str, fps: float) -> str:
    pictures = ""
    if found.prototype is not None and found.typical is not None and found.examples is not None:
        name = f"component {found.number}"
        pictures = (
            f'<div class="pair">{image(found.prototype, f"{name}, decoded mean")}'
            f"{image(found.typical, f'{name}, typical frame')}</div>"
            f'<div class="examples">{"".join(image(x, f"{name}, a frame", 85) for x in found.examples)}</div>'
        )
    dwell = float(np.median(found.dwell))
    lines = (
        f"{percent(found.share)} of rows",
        f"reward {number(found.reward, '.2f')}",
        f"stays {dwell:g} rows, {dwell / fps:.2g} s",
    )
    return f'<article style="--own:{colour}"><h3>{found.number}</h3>{pictures}<p>{"<br>".join(lines)}</p></article>'


def _graph(lens: MixtureLens, used: list[Component]) -> str:
    nodes = [
        Node(x.number, x.share, "" if x.prototype is None else picture_uri(x.prototype))
        for x in sorted(used, key=lambda component: component.number)
        if x.share >= IN_GRAPH
    ]
    title = "What follows what: arrows from a component to those that take over from it"
    note = f"Arrows with at least {percent(LEAST_SWITCHES)} of a component's switches. Pictures are decoded means."
    return figure("What follows what", transition_graph(title, nodes, lens.following, LEAST_SWITCHES), note=note)


def _transition_table(lens: MixtureLens, used: list[Component]) -> str:
    numbers = sorted(component.number for component in used)
    rows = [(str(i), *(DASH if i == j else percent(lens.following[i, j]) for j in numbers)) for i in numbers]
    return table(("from \\ to", *map(str, numbers)), rows)


def _information(lens: MixtureLens) -> str:
    rows = [
        (escape(name), *(f"{found[key]:.3f}" for key in ("information", "95 % of chance", "entropy of bins")))
        for name, found in lens.figures["information"].items()
    ]
    text = (
        "Mutual information of the most responsible component with each, in nats; chance: components shifted in time."
    )
    head = ("about", "told", "95 % of chance", "to know")
    return (
        f'<figure><figcaption>What a component says</figcaption>{table(head, rows)}<p class="note">{text}</p></figure>'
    )


def _strips(lens: MixtureLens) -> str:
    rows = "".join(
        f'<div class="track">{strip(f"Components over episode {i + 1}", row, 10, "strip thin")}</div>'
        for i, row in enumerate(lens.index)
    )
    return f"<figure><figcaption>Who is in charge when, one line per held-out episode</figcaption>{rows}</figure>"


def codebook(data: ReportData) -> str:
    """Return the section on the tokens."""
    found = data.codebook
    if found is None:
        return section("tokens", "Tokens", "The Perceiver is off in this run: there are no tokens.")
    in_use = int((found.shares > 0).sum())
    ranked = np.sort(found.shares)[::-1]
    verdict = (
        f"{in_use} of {len(found.shares)} codes occur in these episodes, with a perplexity of "
        f"{np.exp(entropy(found.shares)):.0f}. The {USED} most used take {percent(ranked[:USED].sum())} of all cells."
    )
    chart = bars("Use of the codes, the most used first", ranked, ("code", "share of cells"))
    return section("tokens", "Tokens of the codebook", verdict, grid(chart, _tokens(found)))


def _tokens(found: Codebook) -> str:
    items = "".join(
        f'<li title="code {token.number}, most often in row {token.cell[0]}, column {token.cell[1]} of the cells">'
        f"{image(token.decoded, f'code {token.number}, decoded', look='pixel')}"
        f"{image(token.mean, f'code {token.number}, mean of real cells', look='pixel')}"
        f"<small>{percent(token.share, '.1f')}</small></li>"
        for token in found.tokens
    )
    note = (
        "The first half are the most used codes, the others those that explain most of what moves. Left: what the "
        "tokenizer draws in the cell where the code is most often; right: the mean of what was there."
    )
    shown = f'<ul class="tokens">{items}</ul><p class="note">{note}</p>'
    return f"<figure><figcaption>Codes, decoded</figcaption>{shown}</figure>"


def slots(data: ReportData) -> str:
    """Return the section on attention."""
    if data.attention is None:
        return section("slots", "Attention slots", "The attention schema is off in this run.")
    side, gap = data.frame_side, 2
    rows = (len(data.attention) + gap) // (side + gap)
    count = (rows - 2) // 2
    colours = hexes(count)
    names = ["frames, and the owner of each cell"]
    names += [f'<i class="swatch" style="background:{colours[slot]}"></i>slot {slot}' for slot in range(count)]
    shown = ""
    for line, name in enumerate(names):
        pair = (
            data.attention[2 * line * (side + gap) :][:side],
            data.attention[(2 * line + 1) * (side + gap) :][:side],
        )
        texts = ("frames", "owners of the cells") if line == 0 else ("map", "map that the prior expects")
        pictures = "".join(image(x, f"{text}, line {line + 1}", 88) for x, text in zip(pair, texts, strict=True))
        shown += f'<div class="slot-row"><span>{name}</span>{pictures}</div>'
    verdict = (
        f"{count} slots share every frame. Beside the map of each slot (left) stands the one that carry and latent "
        "alone expect (right), which the decoder uses."
    )
    return section("slots", "Attention slots", verdict, f'<div class="slots">{shown}</div>')


def gradients(run: RunFacts) -> str:
    """Return the section on the conflict between tasks."""
    if not run.conflicts:
        text = (
            "The log has no cosines between tasks: this run adds its losses up (use_rgb false), or has a single task."
        )
        return section("gradients", "Gradients of the tasks", text)
    worst = max(run.conflicts, key=lambda found: found.negative)
    verdict = (
        f"The tasks that conflict most are {' and '.join(map(_task, worst.tasks))}: the cosine between their "
        f"gradients is below 0 in {percent(worst.negative)} of the log's lines, its mean {worst.cosine.y.mean():z.2f}."
    )
    cosines = [
        Line(" and ".join(map(_task, found.tasks)), found.cosine.x, found.cosine.y, f"c{i} thin")
        for i, found in enumerate(run.conflicts)
    ]
    parts = [line_chart("Cosine between gradients", cosines, ("env_frames", "cosine"), zero=False, level=0.0)]
    if run.weights:
        weights = [Line(_task(task), x, y, f"c{i + 3}") for i, (task, (x, y)) in enumerate(run.weights.items())]
        parts.append(line_chart("Weight of each task's loss", weights, ("env_frames", "weight")))
    return section("gradients", "Gradients of the tasks", verdict, grid(*parts))


def _task(name: str) -> str:
    """Return a task's name without the words that all of them have."""
    short = name.removeprefix("total_").removesuffix("_loss").replace("_", " ")
    return short.upper() if short in ("kl", "elbo") else short


def health(run: RunFacts) -> str:
    """Return the section of the health monitors."""
    bad = [monitor for monitor in run.health.monitors if monitor.verdict == "out of range"]
    if not run.health.monitors:
        return section("health", "Health", "The log has no monitors yet.")
    verdict = f"All {len(run.health.monitors)} monitors with a range are in it at the end of the run."
    if bad:
        verdict = f"Out of range at the end: {', '.join(monitor.metric for monitor in bad)}."
    rows = [_monitor(monitor) for monitor in run.health.monitors]
    head = ("monitor", "verdict", "recent", "range", "over the run")
    reports = "".join(f"<li>update {updates:,}: {escape(line)}</li>" for updates, line in run.health.reports)
    told = details(f"Reported during the run: {len(run.health.reports)}", f"<ul>{reports}</ul>") if reports else ""
    return section("health", "Health monitors", verdict, table(head, rows, "health"), told)


def _monitor(found: Monitor) -> tuple[str, ...]:
    expected = found.expected
    drawn = sparkline(f"{found.metric} over the run", found.values.y, expected.low, expected.high)
    marks = {"in range": "✓", "too early": "…", "out of range": "✗"}
    kind = found.verdict.split()[0]
    advice = f"<br><small>{escape(found.advice)}</small>" if found.advice else ""
    verdict = f'<td class="verdict-{kind}"><b>{marks[found.verdict]}</b> {found.verdict}{advice}</td>'
    return escape(found.metric), verdict, f"{found.recent:.3g}", bounds(expected), drawn


def cost(run: RunFacts) -> str:
    """Return the section of what the run took, and of the settings that differ from its preset."""
    found = run.cost
    entries = [
        ("wall-clock time", duration(found.hours)),
        ("ran on", escape(found.device)),
        ("env_frames a second", f"{found.frames_per_second:.3g}"),
        ("updates a second", f"{found.updates_per_second:.3g}"),
        ("updates", f"{found.updates:,}"),
        ("parameters", f"{run.parameters:,}"),
    ]
    items = "".join(f"<li><span>{name}</span><b>{value}</b></li>" for name, value in entries)
    changed = ", ".join(f"<code>{escape(line)}</code>" for line in run.changed)
    text = (
        f"Differs from preset {escape(run.config.preset)} of this version: {changed}."
        if changed
        else (f"The settings are those of preset {escape(run.config.preset)}.")
    )
    verdict = "Rates are means over the whole run, evaluations and checkpoints included."
    return section("cost", "What it cost", verdict, f'<ul class="tiles">{items}</ul><p class="note">{text}</p>')
