"""Models with other tokenizers, and the library as users have it."""

from collections.abc import Callable, Iterator
from functools import cache

import jaxtyping
import pytest
from transformer_lens.model_bridge import TransformerBridge
from vocabularies import KINDS, random_model


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TransformerBridge]:
    """The random model of each of `KINDS`."""

    @cache
    def model(kind: str) -> TransformerBridge:
        make, architecture = KINDS[kind]
        return random_model(tmp_path_factory.mktemp("zoo"), make(), architecture)

    return model


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As users have it: without the tests' type hook, which raises before the library does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
