"""Made-up frames to draw."""

import numpy as np
import polars as pl


def scores(components: int, kind: str = "neurons", width: int = 3072) -> pl.DataFrame:
    random = np.random.default_rng(components)
    ap, ig = random.standard_normal((2, components)).astype(np.float32)
    index = np.arange(components)
    return pl.DataFrame(
        {"kind": kind, "layer": index // width, "component": index % width, "ap": ap, "ig": ig}
    )


def effects(layers: int, heads: int) -> pl.DataFrame:
    """Random changes of every head by every earlier one; where layer 1 is patched, none defined."""
    names = ("layer", "component", "later_layer", "later_component")
    indices = np.indices((layers, heads, layers, heads))
    frame = pl.DataFrame({name: index.ravel() for name, index in zip(names, indices, strict=True)})
    frame = frame.filter(pl.col("later_layer") > pl.col("layer"))
    relative = np.random.default_rng(0).random(len(frame))
    return frame.with_columns(relative=pl.when(pl.col("layer") != 1).then(relative))


def rows_of(spec: dict) -> list[dict]:
    """What a chart's panels draw."""
    return spec["datasets"][spec["data"]["name"]]
