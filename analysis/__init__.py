"""When do integrated gradients and activation patching agree, and do the differences matter?"""

from analysis.attribution import (
    Scores,
    activation_patching,
    attribution_patching,
    integrated_gradients,
)
from analysis.models import load_model
from analysis.tasks import PromptPairs, load_task
from analysis.version import __version__ as __version__

__all__ = [
    "PromptPairs",
    "Scores",
    "activation_patching",
    "attribution_patching",
    "integrated_gradients",
    "load_model",
    "load_task",
]
