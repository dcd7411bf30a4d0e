"""What each chart draws where: fields, titles, scales and colours of its specification."""

from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

from analysis import charts

KINDS = ["heads", "heads", "neurons"]
ESTIMATES = {"mean": [0.9, 0.8, 0.7], "low": [0.7, 0.6, 0.5], "high": [0.97, 0.88, 0.79]}
SCORES = pl.DataFrame(
    {
        "task": ["ioi", "ioi", "gender-bias", "ioi", "gender-bias"],
        "kind": ["heads"] * 3 + ["neurons"] * 2,
        "layer": [0, 0, 1, 0, 1],
        "component": [0, 1, 1, 7, 3],
        "ap": [-2.0, 0.1, 1.5, 0.5, -0.3],
        "ig": [-1.8, 0.2, 3.0, 0.4, -0.2],
    }
)
LABELS = {"heads": "r = 0.9", "neurons": "r = 0.8"}
EFFECTS = pl.DataFrame(
    {
        "task": ["ioi", "ioi", "gender-bias"],
        "layer": [0, 0, 1],
        "component": [0, 1, 0],
        "later_layer": [1, 2, 2],
        "later_component": [0, 1, 1],
        "norm": [1.2, 0.1, 0.7],
        "relative": [0.6, 0.05, 0.2],
        "projection": [0.5, 0.0, 0.1],
    }
)


def frame(**columns: Any) -> pl.DataFrame:
    return pl.DataFrame(columns)


# A chart function with what it is given, besides the frame by name.
GIVEN: dict[str, tuple[pl.DataFrame, dict[str, Any]]] = {
    "plot_metrics": (
        frame(task="ioi", run=["clean", "clean", "corrupted"], metric=[3.0, 2.0, -2.0]),
        {"units": {"ioi": "logits"}},
    ),
    "plot_agreement": (SCORES, {"labels": {"ioi": LABELS, "gender-bias": LABELS}}),
    "plot_correlation": (SCORES.filter(kind="heads"), {"title": "heads"}),
    "plot_correlation_comparison": (SCORES, {"labels": LABELS}),
    "plot_attn": (SCORES.filter(kind="heads"), {"column": "ap", "title": "AP", "largest": 2.5}),
    "plot_attn_comparison": (SCORES, {}),
    "plot_scores": (SCORES, {"labels": LABELS}),
    "plot_bar_chart": (frame(task="ioi", kind=KINDS, **ESTIMATES), {"value": "Pearson's r"}),
    "plot_overlap": (frame(task="ioi", kind=KINDS, k=[1, 9, 1], **ESTIMATES, chance=0.1), {}),
    "plot_distribution": (frame(task="ioi", kind=KINDS, prompt=[0, 1, 0], r=[0.9, 0.7, 0.5]), {}),
    "plot_baselines": (
        frame(task="ioi", ig=["zero", "source", "mean"], ap="source", **ESTIMATES),
        {},
    ),
    "plot_steps": (
        frame(rule=["left", "left", "right"], steps=[2, 4, 2], gap=[0.1, 0.05, 0.2]),
        {},
    ),
    "plot_steps_agreement": (frame(task="ioi", kind=KINDS, steps=[2, 4, 2], r=[0.8, 0.9, 0.7]), {}),
    "plot_sets": (frame(task="ioi", kind=KINDS, set=["IG", "AP", "IG"], size=4, **ESTIMATES), {}),
    "plot_circuits": (
        frame(task="ioi", method="IG", share=[0.0, 0.1, 1.0], faithfulness=[0.0, 0.7, 1.0]),
        {},
    ),
    "plot_speedup": (frame(task="ioi", kind=KINDS, layer=[0, 1, 0], speedup=[2.0, 5.0, 3.0]), {}),
    "plot_growth": (
        frame(
            grows=["prompts", "prompts", "layers"],
            size=[1, 10, 3],
            method="AP",
            operations=[1.0, 9.0, 4.0],
        ),
        {},
    ),
    "plot_graph": (EFFECTS, {"threshold": 0.1}),
    "plot_effects": (EFFECTS, {}),
    "plot_tasks": (EFFECTS, {}),
    "plot_reached": (frame(layer=[0, 1], component=[2, 0], reached=[3, 0], later=[8, 4]), {}),
    "plot_latent": (
        frame(
            model="a",
            task="ioi",
            outcome=["norm", "norm", "reach"],
            effect=[0.2, 0.1, 0.3],
            low=[0.1, 0.0, 0.2],
            high=[0.4, 0.3, 0.5],
            q=0.1,
            latent=9,
        ),
        {},
    ),
}


# A paragraph per chart function, an item per view: its title (or a dash) and number of rows, its
# mark, and each channel with the field, the field's title, and the scale.
EXPECTED = """
plot_metrics
- ioi (3) | bar | x metric 'metric (logits)' bin binned | x2 metric_end | y prompts 'prompts' |
  color run | tooltip run, metric 'from', metric_end 'to', prompts

plot_agreement
- ioi, heads r = 0.9 (2), gender-bias, heads r = 0.9 (2), ioi, neurons r = 0.8 (2), gender-bias,
  neurons r = 0.8 (2) | line | x ap | y ig
- ioi, heads r = 0.9 (2), gender-bias, heads r = 0.9 (1), ioi, neurons r = 0.8 (1), gender-bias,
  neurons r = 0.8 (1) | circle | x ap 'AP / total effect' % | y ig 'IG / total effect' % | tooltip
  name 'component', ap 'AP' .1%, ig 'IG' .1%

plot_correlation
- heads (2) | line | x ap | y ig
- heads (3) | circle | x ap 'activation patching (metric units)' | y ig 'integrated gradients
  (metric units)' | opacity = 0.5 | tooltip name 'component', ap 'AP', ig 'IG'

plot_correlation_comparison
- attention heads, r = 0.9 (2), MLP neurons, r = 0.8 (2) | line | x ap | y ig
- attention heads, r = 0.9 (3), MLP neurons, r = 0.8 (2) | circle | x ap 'activation patching
  (metric units)' | y ig 'integrated gradients (metric units)' | opacity = 0.5 | tooltip name
  'component', ap 'AP', ig 'IG'

plot_attn
- AP (3) | rect | x component 'head' | y layer 'layer' sort descending | color ap 'metric units'
  domain [-2.5, 2.5] domainMid 0 scheme redblue | opacity = 1 | tooltip name 'component', ap 'AP',
  ig 'IG'

plot_attn_comparison
- integrated gradients (3) | rect | x component 'head' | y layer 'layer' sort descending | color
  ig 'metric units' domain [-3.0, 3.0] domainMid 0 scheme redblue | opacity = 1 | tooltip name
  'component', ap 'AP', ig 'IG'
- activation patching (3) | rect | x component 'head' | y layer 'layer' sort descending | color ap
  'metric units' domain [-3.0, 3.0] domainMid 0 scheme redblue | opacity = 1 | tooltip name
  'component', ap 'AP', ig 'IG'

plot_scores
- attention heads, r = 0.9 (2), MLP neurons, r = 0.8 (2) | line | x ap | y ig
- attention heads, r = 0.9 (3) | circle | x ap 'activation patching (metric units)' | y ig
  'integrated gradients (metric units)' | opacity as chosen, else 0.12 | tooltip name
  'component', ap 'AP', ig 'IG'
- MLP neurons, r = 0.8 (2) | circle | x ap 'activation patching (metric units)' | y ig 'integrated
  gradients (metric units)' | opacity = 0.5 | tooltip name 'component', ap 'AP', ig 'IG'
- integrated gradients (3) | rect | x component 'head' | y layer 'layer' sort descending | color
  ig 'metric units' domain [-3.0, 3.0] domainMid 0 scheme redblue | opacity as chosen, else
  0.12 | tooltip name 'component', ap 'AP', ig 'IG'
- activation patching (3) | rect | x component 'head' | y layer 'layer' sort descending | color ap
  'metric units' domain [-3.0, 3.0] domainMid 0 scheme redblue | opacity as chosen, else 0.12 |
  tooltip name 'component', ap 'AP', ig 'IG'

plot_bar_chart
- - (3) | bar | x mean 'Pearson's r' domainMax 1 | y task | yOffset kind sort ['heads', 'neurons']
  | color kind sort ['heads', 'neurons'] | tooltip task, kind, mean 'estimate', low 'from', high
  'to'
- - (3) | rule | x low | x2 high | y task | yOffset kind sort ['heads', 'neurons']

plot_overlap
- attention heads (2), MLP neurons (1) | area | x k 'k, the size of the top sets' type log | y low
  | y2 high | color task
- attention heads (2), MLP neurons (1) | line | x k 'k, the size of the top sets' type log | y
  chance | color = #7f7f7f
- attention heads (2), MLP neurons (1) | line | x k 'k, the size of the top sets' type log | y
  mean 'overlap' domain [0, 1] | color task | tooltip task, k, mean 'estimate', low 'from', high
  'to'

plot_distribution
- attention heads (2), MLP neurons (1) | tick | x r 'Pearson's r of a prompt' zero False | y task
  | tooltip prompt, r 'r'
- attention heads (1), MLP neurons (1) | tick | x r | y task | tooltip task, r 'median'

plot_baselines
- ioi (3) | rect | x ap 'AP's baseline' | y ig 'IG's baseline' | color mean 'r' domain [-1, 1]
  domainMid 0 scheme redblue | tooltip task, ig, ap, mean 'estimate', low 'from', high 'to'
- ioi (3) | text | x ap 'AP's baseline' | y ig 'IG's baseline' | color white if
  datum.mean > 0.79 || datum.mean < -0.68, else black | text mean .2f | tooltip task, ig, ap,
  mean 'estimate', low 'from', high 'to'

plot_steps
- - (3) | line | x steps 'steps' base 2 type log | y gap 'largest gap / largest |total effect|'
  type log .0e | color rule | tooltip rule, steps, gap 'gap'

plot_steps_agreement
- attention heads (2), MLP neurons (1) | line | x steps 'steps' base 2 type log | y r 'lowest r of
  a layer' zero False | color task | tooltip task, steps, r 'r'

plot_sets
- attention heads (2), MLP neurons (1) | rule | x low | x2 high | y task | yOffset set | color set
  | tooltip task, set, size, mean 'estimate', low 'from', high 'to'
- attention heads (2), MLP neurons (1) | point | x mean 'change of the metric / mean total effect'
  | y task | yOffset set | color set | tooltip task, set, size, mean 'estimate', low 'from', high
  'to'

plot_circuits
- ioi (2) | line | x share 'share kept' type log | y faithfulness 'faithfulness' | color method |
  tooltip method, share, faithfulness 'faithfulness'

plot_speedup
- attention heads (2), MLP neurons (1) | line | x layer 'layer' | y speedup 'times faster' type
  log | color task | tooltip task, layer, speedup 'times faster'

plot_growth
- - (2) | line | x size 'prompts' nice False type log ~s | y operations 'operations' type log .0e
  | color method | tooltip method, size, operations 'operations'
- - (1) | line | x size 'layers' nice False type log ~s | y operations 'operations' type log .0e |
  color method | tooltip method, size, operations 'operations'

plot_graph
- - (3) | rule | x component 'head' domain [-0.3, 1.3] nice False d | x2 later_component | y layer
  'layer' domain [-0.3, 2.3] nice False d | y2 later_layer | opacity 0.04 if
  isDefined(pointed.name) && indexof(pointed.name, datum.source) < 0 &&
  indexof(pointed.name, datum.target) < 0, else 0.6 |
  strokeWidth relative range [0.5, 7] | tooltip change 'effect', norm 'norm', projection
  'projection'
- - (4) | circle | x component 'head' domain [-0.3, 1.3] nice False d | y layer 'layer' domain
  [-0.3, 2.3] nice False d | tooltip name, strongest 'most'

plot_effects
- - (3) | rect | x later_short 'changed head' | y short 'patched head' | color relative 'relative
  change' domainMin 0 scheme blues | tooltip change 'effect', norm 'norm', projection 'projection'

plot_tasks
- ioi (2), gender-bias (1) | rect | x later_short 'changed head' | y short 'patched head' | color
  relative 'relative change' domainMin 0 scheme blues | tooltip change 'effect', norm 'norm',
  projection 'projection'

plot_reached
- - (2) | bar | x short 'patched head' | y reached 'later heads changed by more than 5 %' |
  tooltip name, reached, later

plot_latent
- norm (1), reach (1) | rule | x mean
- norm (2), reach (1) | rule | x low | x2 high | y task | yOffset model | color model | tooltip
  model, task, latent, mean 'estimate', low 'from', high 'to', q 'q'
- norm (2), reach (1) | point | x mean 'latent - controls (sd)' | y task | yOffset model | color
  model | tooltip model, task, latent, mean 'estimate', low 'from', high 'to', q 'q'
"""


def drawn(chart: Any) -> list[str]:
    """What a chart's views draw, in words; views that differ in title and rows alone are one."""
    specification = chart.to_dict()
    views: dict[str, list[str]] = {}
    for view in units(specification, {"encoding": {}, "title": "-"}):
        channels = sorted(view["encoding"].items(), key=lambda channel: ORDER.index(channel[0]))
        text = " | ".join([view["mark"]["type"], *(said(*channel) for channel in channels)])
        rows = len(specification["datasets"][view["data"]["name"]])
        views.setdefault(text, []).append(f"{title_of(view)} ({rows})")
    return [f"{', '.join(titles)} | {text}" for text, titles in views.items()]


ORDER = ["x", "x2", "y", "y2", "yOffset", "color", "opacity", "strokeWidth", "text", "tooltip"]


def units(view: dict[str, Any], above: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The views that have a mark, with what they inherit."""
    here = above | {name: view[name] for name in ("data", "mark", "title") if name in view}
    here["encoding"] = above["encoding"] | view.get("encoding", {})
    if "mark" in view:
        yield here
    for name in ("layer", "concat", "hconcat", "vconcat"):
        for inner in view.get(name, []):
            yield from units(inner, here)


def title_of(view: dict[str, Any]) -> str:
    title = view["title"]
    return " ".join(title["text"]) if isinstance(title, dict) else title or "-"


def said(name: str, found: Any) -> str:
    """A channel with its fields, their titles and scales."""
    each = found if isinstance(found, list) else [found]
    return f"{name} {', '.join(map(field_of, each))}"


def field_of(channel: dict[str, Any]) -> str:
    if "condition" in channel:
        test = channel["condition"]
        when = f"{test['value']} if {test['test']}" if isinstance(test, dict) else "as chosen"
        return f"{when}, else {channel['value']}"
    if "field" not in channel:
        return f"= {channel['value']}"
    parts = [channel["field"], channel.get("title") and f"'{channel['title']}'"]
    parts += [f"{name} {channel[name]}" for name in ("sort", "bin") if channel.get(name)]
    parts += [f"{name} {value}" for name, value in (channel.get("scale") or {}).items()]
    formats = channel.get("format", ".3g"), (channel.get("axis") or {}).get("format", ".3g")
    parts += [form for form in formats if form != ".3g"]
    return " ".join(filter(None, parts))


def expected() -> dict[str, list[str]]:
    paragraphs = (paragraph.split("\n- ") for paragraph in EXPECTED.strip().split("\n\n"))
    return {name: [" ".join(view.split()) for view in views] for name, *views in paragraphs}


def plot(name: str) -> Any:
    rows, settings = GIVEN[name]
    return getattr(charts, name)(rows, **settings)


def test_every_chart_function_is_among_those_that_are_checked():
    functions = {name for name in charts.__all__ if name.startswith("plot_")}
    assert functions == GIVEN.keys() == expected().keys()


@pytest.mark.parametrize("name", GIVEN)
def test_every_channel_has_the_field_that_its_title_names_and_the_scale_that_it_needs(name):
    assert drawn(plot(name)) == expected()[name]


PERCENT = [("0.0", "1.0", "60%"), ("0.1", "2.1", "5%"), ("1.0", "2.1", "20%")]
# What some fields hold, in the rows' order, where a function makes them.
VALUES = [
    ("plot_effects", {"short": ["0.0", "0.1", "1.0"], "later_short": ["1.0", "2.1", "2.1"]}),
    ("plot_effects", {"change": [f"head {a} changes head {b} by {c}" for a, b, c in PERCENT]}),
    ("plot_graph", {"source": ["head 0.0", "head 0.1", "head 1.0"]}),
    ("plot_graph", {"target": ["head 1.0", "head 2.1", "head 2.1"]}),
    ("plot_reached", {"short": ["0.2", "1.0"], "name": ["head 0.2", "head 1.0"]}),
    ("plot_distribution", {"r": [0.8], "task": ["ioi"]}),
    ("plot_correlation", {"ap": [-2.0, 3.0], "ig": [-2.0, 3.0]}),
    ("plot_attn", {"name": ["head 0.0", "head 0.1", "head 1.1"], "ig": [-1.8, 0.2, 3.0]}),
    ("plot_circuits", {"share": [0.1, 1.0], "faithfulness": [0.7, 1.0]}),
    ("plot_latent", {"mean": [0.2, 0.1], "low": [0.1, 0.0], "high": [0.4, 0.3]}),
    ("plot_latent", {"mean": [0.0]}),
]


@pytest.mark.parametrize(("name", "columns"), VALUES)
def test_a_chart_holds_the_frames_numbers_and_what_it_makes_of_them(name, columns):
    sets = plot(name).to_dict()["datasets"].values()
    assert columns in [{key: [row.get(key) for row in rows] for key in columns} for rows in sets]


@pytest.mark.parametrize("name", GIVEN)
def test_a_frame_longer_than_altair_takes_is_drawn(name):
    rows, settings = GIVEN[name]
    longer = pl.concat([rows] * (1 + 5_000 // len(rows)))
    assert getattr(charts, name)(longer, **settings).to_dict()["datasets"]


@pytest.mark.parametrize("name", GIVEN)
def test_a_frame_that_cannot_be_drawn_is_refused_in_a_sentence(name):
    rows, settings = GIVEN[name]
    plot = getattr(charts, name)
    with pytest.raises(ValueError, match=rf"^{name}: the frame has no rows, so there is nothing"):
        plot(rows.head(0), **settings)
    lost = rows.columns[-1]
    with pytest.raises(ValueError, match=rf"^{name} draws the columns .*this frame lacks {lost}: "):
        plot(rows.drop(lost), **settings)
    with pytest.raises(
        ValueError, match=rf"^{name} draws a Polars DataFrame, and this is a dict: "
    ):
        plot(rows.to_dict(), **settings)
