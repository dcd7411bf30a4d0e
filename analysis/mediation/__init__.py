"""What a component changes in later components, and how far the metric goes through them."""

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
