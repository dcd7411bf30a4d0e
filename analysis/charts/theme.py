"""The one look of every chart: colour-blind safe, readable on light and on dark."""

from typing import Any

import altair as alt

Layered = alt.LayerChart | alt.FacetChart

# Okabe and Ito's hues, so dark or light that marks have 3:1 on white and on near-black. Texts have
# 4.5:1 on white; the pages' script gives them the page's colour.
BLUE, VERMILION, GREEN, PURPLE, ORANGE = "#0072B2", "#D55E00", "#009E73", "#C27399", "#B07D00"
GREY, TEXT = "#7f7f7f", "#595959"
COLOURS = [BLUE, VERMILION, GREEN, PURPLE, ORANGE]
EARLY_TO_LATE = [BLUE, "#9B6E9E", VERMILION]


@alt.theme.register("analysis", enable=True)
def theme() -> alt.theme.ThemeConfig:
    """Axes, legends, titles and fonts."""
    text = {"labelColor": TEXT, "titleColor": TEXT, "labelFontSize": 12, "titleFontSize": 12}
    text |= {"titleFontWeight": "normal", "labelLimit": 260}
    lines = {"domainColor": GREY, "tickColor": GREY, "gridColor": GREY, "gridOpacity": 0.2}
    title = {"color": TEXT, "fontWeight": "normal", "fontSize": 13}
    config: Any = {
        "view": {"stroke": None},
        "axis": text | lines,
        "legend": text | {"orient": "top", "columns": 4, "symbolOpacity": 1},
        "title": title | {"subtitleColor": TEXT, "subtitleFontSize": 12, "anchor": "start"},
        "range": {"category": COLOURS},
        "font": "DejaVu Sans, Helvetica, Arial, sans-serif",
    }
    return {"background": "transparent", "config": config}
