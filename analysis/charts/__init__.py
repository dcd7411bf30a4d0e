"""Frames to charts and tables."""

from analysis.charts.alignment import plot_baselines, plot_steps, plot_steps_agreement
from analysis.charts.consequences import plot_circuits, plot_sets
from analysis.charts.page import enable, percent, table, write_script, written
from analysis.charts.performance import plot_growth, plot_speedup
from analysis.charts.scores import (
    plot_attn,
    plot_attn_comparison,
    plot_bar_chart,
    plot_correlation,
    plot_correlation_comparison,
    plot_distribution,
    plot_metric,
    plot_overlap,
)

__all__ = [
    "enable",
    "percent",
    "plot_attn",
    "plot_attn_comparison",
    "plot_bar_chart",
    "plot_baselines",
    "plot_circuits",
    "plot_correlation",
    "plot_correlation_comparison",
    "plot_distribution",
    "plot_growth",
    "plot_metric",
    "plot_overlap",
    "plot_sets",
    "plot_speedup",
    "plot_steps",
    "plot_steps_agreement",
    "table",
    "write_script",
    "written",
]
