"""Frames to charts and tables."""

from analysis.charts.alignment import plot_baselines, plot_steps, plot_steps_agreement
from analysis.charts.consequences import plot_circuits, plot_sets
from analysis.charts.mediators import (
    plot_effects,
    plot_graph,
    plot_latent,
    plot_reached,
    plot_tasks,
)
from analysis.charts.page import enable, percent, table, write_script, written
from analysis.charts.performance import plot_growth, plot_speedup
from analysis.charts.prompts import plot_distribution, plot_metrics
from analysis.charts.scores import (
    plot_agreement,
    plot_attn,
    plot_attn_comparison,
    plot_bar_chart,
    plot_correlation,
    plot_correlation_comparison,
    plot_overlap,
    plot_scores,
)

__all__ = [
    "enable",
    "percent",
    "plot_agreement",
    "plot_attn",
    "plot_attn_comparison",
    "plot_bar_chart",
    "plot_baselines",
    "plot_circuits",
    "plot_correlation",
    "plot_correlation_comparison",
    "plot_distribution",
    "plot_effects",
    "plot_graph",
    "plot_growth",
    "plot_latent",
    "plot_metrics",
    "plot_overlap",
    "plot_reached",
    "plot_scores",
    "plot_sets",
    "plot_speedup",
    "plot_steps",
    "plot_steps_agreement",
    "plot_tasks",
    "table",
    "write_script",
    "written",
]
