"""The studies: each runs, keeps its results and returns tidy frames."""

import functools
import os

from transformer_lens.model_bridge import TransformerBridge

from analysis.models import load_model, load_untrained

# What stands for a model's name where an untrained network of the record's shape is meant.
UNTRAINED = "untrained"


def model_of_record() -> TransformerBridge:
    """The model that the report is about: `ANALYSIS_MODEL`, else the testbed."""
    return loaded(model_name())


def loaded(name: str) -> TransformerBridge:
    """`load_model(name)`, or the untrained control, loaded once a process."""
    return _untrained(model_name()) if name == UNTRAINED else _trained(name)


def testbed_notice() -> str:
    """Which model a page's numbers belong to; on a testbed, that they are no claim about GPT-2."""
    name = model_name()
    if not name.startswith("testbed"):
        return f"All numbers on this page are of the model `{name}`."
    return (
        f"All numbers on this page are of the model `{name}`, a small model that this project "
        "trained; testbed results are no claims about GPT-2 small."
    )


def model_name() -> str:
    """The name in `ANALYSIS_MODEL`, which Quarto's profiles set; the testbed where it is unset."""
    return os.environ.get("ANALYSIS_MODEL", "testbed")


_trained, _untrained = functools.cache(load_model), functools.cache(load_untrained)
