"""Attribution methods: one file per method, all returning `Scores`.

Base is the run that is changed, source the other one; m is the metric and Δa a component's change
from its activation in the base run to the baseline's. In `noising` base is the clean run, so a
negative score says that the component helps the behaviour; in `denoising` it is a positive one.
"""

from analysis.attribution.activation_patching import activation_patching
from analysis.attribution.attribution_patching import attribution_patching
from analysis.attribution.integrated_gradients import integrated_gradients
from analysis.scores import Scores

__all__ = ["Scores", "activation_patching", "attribution_patching", "integrated_gradients"]
