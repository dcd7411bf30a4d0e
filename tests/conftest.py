"""Models small enough for milliseconds, saved and loaded by the path that real ones take."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # a worker a core; more threads would fight over them

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hypothesis
import jaxtyping
import llama_file
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PretrainedConfig,
)

from analysis import load_model, paths
from analysis.gguf_files import packaged
from analysis.metrics import Labels, Metric, Readout

ROOT = Path(__file__).parents[1]

hypothesis.settings.register_profile(
    "project", deadline=None, max_examples=25, derandomize=True, database=None
)
hypothesis.settings.load_profile("project")


@pytest.fixture(scope="session")
def testbed() -> TransformerBridge:
    return load_model("testbed")


@pytest.fixture(scope="session")
def llama_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama as a GGUF file, whose tokenizer splits digits."""
    path = tmp_path_factory.mktemp("llama") / "llama.gguf"
    return llama_file.write(path, llama_file.random_llama())


@pytest.fixture(scope="session")
def llama(llama_path: Path) -> TransformerBridge:
    return load_model(llama_path)


@pytest.fixture(scope="session")
def smollm2() -> TransformerBridge:
    """The real language model. It takes half a minute: its tests are in one file, one process."""
    try:
        packaged("smollm2")
    except ValueError as missing:
        pytest.skip(str(missing))
    return load_model("smollm2")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As users call the library: nothing checks types, so a wrong choice reaches its sentence."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first, so that no process has one left at the end."""
    items.sort(key=lambda item: item.path.stem not in ("test_report", "test_smollm2"))


class Paper(NamedTuple):
    """The preview of the report, and what making it took."""

    project: Path  # a copy of the documents
    site: Path
    environment: dict[str, str]
    printed: str
    computed: set[str]
    late: set[str]  # results that pages had to compute


@pytest.fixture(scope="session")
def paper(tiny_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Paper:
    """What `make paper` makes without Quarto, of a tiny random model in place of both models.

    Of a random model not every sentence holds: the pages have callouts there.
    """
    project, results = (tmp_path_factory.mktemp(name) for name in ("project", "results"))
    shutil.copy(ROOT / "_quarto.yml", project)
    made = shutil.ignore_patterns("paper.qmd", "reference")
    shutil.copytree(ROOT / "report", project / "report", ignore=made)
    (project / "report" / "charts.js").unlink(missing_ok=True)
    environment = {
        "ANALYSIS_RESULTS": str(results),
        "ANALYSIS_PROMPTS": "20",
        "ANALYSIS_TESTBED": str(tiny_directory),
        "ANALYSIS_MODEL": str(tiny_directory),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
    }

    def python(*arguments: str) -> str:
        ran = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            cwd=project,
            env=os.environ | environment,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    printed = python("-m", "analysis", "run")
    computed = {path.name for path in results.glob("*.parquet")}
    python("report/furniture/preview.py", "_site")
    late = {path.name for path in results.glob("*.parquet")} - computed
    return Paper(project, project / "_site", environment, printed, computed, late)


def random_tokens(model: TransformerBridge, prompts: int, positions: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(prompts * 100 + positions)
    return torch.randint(0, model.cfg.d_vocab, (prompts, positions), generator=generator)


def weighed(logits: torch.Tensor, labels: Labels) -> torch.Tensor:
    """A metric in which every logit counts, each by a weight of its own."""
    return logits @ torch.randn(logits.shape[-1], generator=torch.manual_seed(0))


def readout(prompts: int, metric: Metric = weighed) -> Readout:
    """A metric with made-up answers, a right and a wrong one for each prompt."""
    tokens = torch.arange(2 * prompts).reshape(prompts, 2)
    return Readout(metric, Labels(tokens, torch.tensor([[1.0, -1.0]] * prompts)))


def saved(config: PretrainedConfig, directory: Path) -> Path:
    """A random model of any architecture with the testbed's tokenizer, in this folder."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    AutoTokenizer.from_pretrained(str(paths.MODELS / "testbed")).save_pretrained(directory)
    return directory


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
