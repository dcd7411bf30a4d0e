"""Attribution methods: one file a method, all returning `Scores`."""

from analysis.attribution.activation_patching import activation_patching
from analysis.attribution.integrated_gradients import integrated_gradients
from analysis.attribution.scores import Scores

__all__ = ["Scores", "activation_patching", "integrated_gradients"]
