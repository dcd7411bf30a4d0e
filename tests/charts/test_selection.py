"""Four views of one task's scores, linked."""

import json

import polars as pl
from charts.frames import rows_of, scores

from analysis import charts

BOTH = pl.concat([scores(32, "heads", width=8), scores(12 * 3072)])
SPEC = charts.scores(BOTH, {"heads": "r = 0.98", "neurons": "r = 0.97"}).to_dict()
HEADS, NEURONS, IG, AP = SPEC["concat"]


def test_heads_and_neurons_stand_above_the_heads_heatmaps_with_their_notes():
    assert SPEC["columns"] == 2
    assert [view["title"]["subtitle"] for view in (HEADS, NEURONS)] == ["r = 0.98", "r = 0.97"]
    kinds = [json.dumps(view) for view in SPEC["concat"]]
    assert ['"equal": "heads"' in kind for kind in kinds] == [True, False, True, True]


def test_heads_chosen_in_one_view_are_chosen_in_the_others():
    """Every linked view fades by the brush and by the click, and has the fields they look at."""
    linked = [HEADS["layer"][1], IG, AP]
    chosen = {param["name"]: param["views"] for param in SPEC["params"]}
    assert set(chosen) == {"chosen", "clicked"}
    for views in chosen.values():
        assert {HEADS["layer"][1]["name"], *(view["layer"][0]["name"] for view in (IG, AP))} <= set(
            views
        )
    for view in linked:
        faded = json.dumps(view)
        assert '"param": "chosen"' in faded and '"param": "clicked"' in faded
    assert "param" not in json.dumps(NEURONS)
    assert {"ap", "ig", "layer", "component"} <= set(rows_of(SPEC)[0])


def test_all_heads_and_a_sample_of_neurons_are_drawn():
    kinds = [row["kind"] for row in rows_of(SPEC)]
    assert (kinds.count("heads"), kinds.count("neurons")) == (32, 600)
    assert len(json.dumps(SPEC)) < 120_000


def test_the_heatmaps_share_their_colours():
    heads = BOTH.filter(kind="heads").select("ap", "ig").to_numpy()
    scales = [view["layer"][0]["encoding"]["color"]["scale"]["domain"] for view in (IG, AP)]
    assert scales == [[-abs(heads).max(), abs(heads).max()]] * 2


def test_one_kind_alone_is_drawn_alone():
    spec = charts.scores(BOTH.filter(kind="neurons")).to_dict()
    assert [view["title"]["text"] for view in spec["concat"]] == ["neurons"]
