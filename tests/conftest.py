"""Models small enough for milliseconds, saved and loaded by the path that real ones take."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # a worker a core; more threads would fight over them

from pathlib import Path

import hypothesis
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from analysis import load_model, paths

hypothesis.settings.register_profile(
    "project", deadline=None, max_examples=25, derandomize=True, database=None
)
hypothesis.settings.load_profile("project")


@pytest.fixture(scope="session")
def testbed() -> TransformerBridge:
    return load_model("testbed")


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, 3 layers, 4 heads, width 32, large weights, the testbed's tokenizer."""
    directory = tmp_path_factory.mktemp("tiny")
    save_random_model(directory, seed=0)
    return directory


@pytest.fixture(scope="session")
def tiny(tiny_directory: Path) -> TransformerBridge:
    return load_model(tiny_directory)


@pytest.fixture(scope="session")
def tiny_raw(tiny_directory: Path) -> TransformerBridge:
    """The same model without weight processing."""
    return TransformerBridge.boot_transformers(str(tiny_directory), device="cpu").eval()


def random_tokens(model: TransformerBridge, prompts: int, positions: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(prompts * 100 + positions)
    return torch.randint(0, model.cfg.d_vocab, (prompts, positions), generator=generator)


def save_random_model(directory: Path, seed: int, **config) -> None:
    """Every weight random, biases and LayerNorms too, so that nothing is zero by accident."""
    tokenizer = AutoTokenizer.from_pretrained(str(paths.MODELS / "testbed"))
    torch.manual_seed(seed)
    shape = {"n_layer": 3, "n_head": 4, "n_embd": 32, "n_positions": 40} | config
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **shape))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * (0.25 if weight.ndim > 1 else 0.1))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
