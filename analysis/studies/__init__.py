"""The studies: each runs, keeps its results and returns tidy frames.

A study takes a model, `n` prompts a task, the `seed` that draws them, `progress` (None shows a bar
on a terminal) and the names of its `tasks`. It takes seconds to minutes on the testbed and hours on
GPT-2 small; what is in `data/results` already is read. So the studies have no examples: begin with
`n=4` and one task.
"""

import functools
import os

from transformer_lens.model_bridge import TransformerBridge

from analysis import paths
from analysis.models import available_testbeds, load_model, load_untrained
from analysis.sources import find

# What stands for a model's name where an untrained network of the record's shape is meant.
UNTRAINED = "untrained"


def model_of_record() -> TransformerBridge:
    """The model that the report is about: `ANALYSIS_MODEL`, else the testbed.

    Raises:
        ValueError: as `load_model` does.

    Examples:
        >>> from analysis.studies import model_of_record
        >>> model_of_record().cfg.n_layers
        4
    """
    return loaded(model_name())


def loaded(name: str) -> TransformerBridge:
    """`load_model(name)`, or the control for the name `untrained`, loaded once a process.

    The control has the shape of the model of record and the weights that training began at.

    Raises:
        ValueError: as `load_model` does.

    Examples:
        >>> from analysis.studies import loaded
        >>> loaded("testbed") is loaded("testbed")
        True
    """
    return _untrained(model_name()) if name == UNTRAINED else _trained(name)


def testbed_notice() -> str:
    """Which model a page's numbers belong to; on a testbed, that they are no claim about GPT-2.

    Examples:
        >>> from analysis.studies import testbed_notice
        >>> print(testbed_notice()[:51])
        All numbers on this page are of the model `testbed`
    """
    name = model_name()
    if not is_testbed(name):
        return f"All numbers on this page are of the model `{name}`."
    return (
        f"All numbers on this page are of the model `{name}`, a small model that this project "
        "trained; testbed results are no claims about GPT-2 small."
    )


def model_name() -> str:
    """The name in `ANALYSIS_MODEL`, which Quarto's profiles set; the testbed where it is unset.

    Examples:
        >>> from analysis.studies import model_name
        >>> model_name()
        'testbed'
    """
    return os.environ.get("ANALYSIS_MODEL", "testbed")


def is_testbed(name: str) -> bool:
    """Whether a name is of a model that ships with the project, and not of a directory here.

    Examples:
        >>> from analysis.studies import is_testbed
        >>> is_testbed("testbed-2"), is_testbed("gpt2-small")
        (True, False)
    """
    return name in available_testbeds() and find(name).place == paths.MODELS / name


_trained, _untrained = functools.cache(load_model), functools.cache(load_untrained)
