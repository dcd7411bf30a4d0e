"""The one look of every chart: colour-blind safe, readable on light and on dark."""

from typing import Any, cast

import altair as alt

Layered = alt.LayerChart | alt.FacetChart

# Okabe and Ito's colours; the grey keeps its contrast on white and on near-black.
BLUE, VERMILION, GREEN, PURPLE, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"
GREY = "#7f7f7f"
COLOURS = [BLUE, VERMILION, GREEN, PURPLE, ORANGE]
KIND_TITLES = {"heads": "attention heads", "neurons": "MLP neurons"}


@alt.theme.register("analysis", enable=True)
def theme() -> alt.theme.ThemeConfig:
    """Axes, legends, titles and fonts."""
    axis = {"labelColor": GREY, "titleColor": GREY, "domainColor": GREY, "tickColor": GREY}
    config: dict[str, Any] = {
        "background": "transparent",
        "config": {
            "view": {"stroke": None},
            "axis": axis | {"gridColor": GREY, "gridOpacity": 0.2, "titleFontWeight": "normal"},
            "legend": {"labelColor": GREY, "titleColor": GREY, "titleFontWeight": "normal"},
            "header": {"labelColor": GREY, "titleColor": GREY, "labelFontSize": 12},
            "title": {"color": GREY, "fontWeight": "normal", "fontSize": 13},
            "range": {"category": COLOURS},
            "font": "DejaVu Sans, Helvetica, Arial, sans-serif",
        },
    }
    return cast(alt.theme.ThemeConfig, config)


def number(column: str, title: str, format: str = ".3g") -> alt.Tooltip:
    """A number as the pointer's text shows it."""
    return alt.Tooltip(f"{column}:Q", title=title, format=format)


def estimate() -> list[alt.Tooltip]:
    """An estimate and its interval, for the same."""
    return [number("mean", "estimate"), number("low", "from"), number("high", "to")]
