"""Frames to charts and tables: a few forms, whose columns say what stands where.

What a study measures on each prompt is a `strip`, curves are `lines`, effects a `graph`. The seeds'
`plot_correlation` is `scatter`, `plot_attn` is `heatmap`, and `plot_bar_chart` is `intervals`.

Every form takes `column` and `row`, columns with a panel for each value, `note`, a column with a
text for each panel, and `titles`, a dictionary from columns to what axes and legends call them.

Examples:
    >>> import polars as pl
    >>> from analysis import charts
    >>> frame = pl.DataFrame({"task": "ioi", "layer": [0, 1], "ap": [0.5, 0.1], "ig": [0.4, 0.1]})
    >>> charts.scatter(frame, column="task", color="layer").save("scatter.html")
    >>> charts.heatmap(frame, "task", "layer", "ap", text=True).save("heatmap.html")
    >>> charts.lines(frame, "layer", "ig", "task", titles={"ig": "IG (logits)"}).save("lines.html")
    >>> charts.strip(frame, "ap", "task").save("strip.html")
"""

from analysis.charts.forms import heatmap, intervals, lines, scatter, strip
from analysis.charts.linked import graph, scores
from analysis.charts.page import enable, table

__all__ = ["heatmap", "intervals", "lines", "scatter", "strip"]
__all__ += ["enable", "graph", "scores", "table"]
