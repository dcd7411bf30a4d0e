"""What a result was computed with: no part of its key, but kept beside it, shown and compared.

Versions and machines move a number's last bits, so results are found whatever computed them. What a
model computes must not move: its log-probabilities on fixed random prompts are kept too, and a
result is refused by a model that computes others, though it has the same weights and configuration.
"""

import json
import platform
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge

from analysis.forward import undisturbed
from analysis.models import TOLERANCE, largest_difference, log_probabilities, random_prompts

PROVENANCE = "provenance"  # the name of it in a file's metadata
_LIBRARIES = ("torch", "transformers", "transformer_lens")
_COLUMNS = 8


@dataclass(frozen=True)
class Provenance:
    """Versions and the machine by name, and log-probabilities of some tokens after some prompts.

    Examples:
        >>> from analysis import load_model
        >>> from analysis.provenance import Provenance
        >>> provenance = Provenance.of(load_model("testbed"))
        >>> sorted(provenance.made_with)
        ['device', 'machine', 'python', 'torch', 'transformer_lens', 'transformers']
        >>> Provenance.read(provenance.text()) == provenance
        True
    """

    made_with: dict[str, str]
    log_probabilities: list[list[float]]

    @classmethod
    def of(cls, model: TransformerBridge) -> "Provenance":
        """What a model computes, here and now."""
        prompts = random_prompts(model.cfg.d_vocab, model.cfg.n_ctx)
        with undisturbed(model):
            rows = log_probabilities(model, prompts)
        columns = torch.linspace(0, rows.shape[1] - 1, _COLUMNS).long()
        found = [[float(f"{value:.7g}") for value in row] for row in rows[:, columns].tolist()]
        return cls(_made_with() | {"device": str(model.cfg.device)}, found)

    @classmethod
    def read(cls, text: str) -> "Provenance":
        """From a file's metadata."""
        return cls(**json.loads(text))

    def text(self) -> str:
        """For a file's metadata."""
        return json.dumps(asdict(self))

    def check(self, text: str | None, path: Path) -> None:
        """Compares with what a file was made with.

        Raises:
            ValueError: where the model that the file was made with computed something else.
        """
        if text is None:
            raise ValueError(f"{path} does not say what it was made with: delete it.")
        kept = Provenance.read(text)
        found = torch.tensor(self.log_probabilities)
        difference = largest_difference(found, torch.tensor(kept.log_probabilities))
        if not difference <= TOLERANCE:
            raise ValueError(
                f"{path} was made by a model that computed something else with the same weights "
                f"and configuration: log-probabilities differ by {difference:.1e} of the largest. "
                f"It was made with {_said(kept.made_with)}, and this is {_said(self.made_with)}: "
                "use the same, or delete the file."
            )


@cache
def _made_with() -> dict[str, str]:
    libraries = {name: version(name) for name in _LIBRARIES}
    machine = f"{platform.system()} {platform.machine()}"
    return {"python": platform.python_version(), "machine": machine} | libraries


def _said(made_with: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(made_with.items()))
