"""What a component changes in later components, and how far the metric goes through them.

For a component d whose activation a patched component c changes by δ, and Δa, d's change to the
source:

    norm        ‖δ‖
    relative    ‖δ‖ / ‖Δa‖
    projection  ⟨δ, Δa⟩ / ‖Δa‖²
    reach       1 where the relative change is over 5 %, else 0

over positions and dimensions, of a head in d_model. A projection of 1 is all the way to the source;
a negative one goes away from it.
"""

from analysis.mediation.effects import Effects
from analysis.mediation.metric import (
    Component,
    Mediation,
    head_links,
    mediate,
    strongest_links,
)
from analysis.mediation.reduction import Strongest
from analysis.mediation.sweep import component_effects, dense_effects, head_effects
from analysis.mediation.targets import MEASURES, REACHED

__all__ = [
    "MEASURES",
    "REACHED",
    "Component",
    "Effects",
    "Mediation",
    "Strongest",
    "component_effects",
    "dense_effects",
    "head_effects",
    "head_links",
    "mediate",
    "strongest_links",
]
