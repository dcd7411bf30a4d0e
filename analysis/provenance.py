"""What a result was computed with: no part of its key, but kept beside it, shown and compared.

Versions and machines move a number's last bits, so results are found whatever computed them. What a
model computes must not move: its log-probabilities on fixed random prompts are kept too, and a
result is refused by a model that computes others, though it has the same weights and configuration.
"""

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge

from analysis.forward import undisturbed
from analysis.models import TOLERANCE, largest_difference, log_probabilities, random_prompts

PROVENANCE = "provenance"  # the name of it in a file's metadata


@dataclass(frozen=True)
class Provenance:
    """Versions and the machine by name, and log-probabilities of some tokens after some prompts."""

    made_with: dict[str, str]
    log_probabilities: list[list[float]]

    @classmethod
    def of(cls, model: TransformerBridge) -> "Provenance":
        """What a model computes, here and now."""
        prompts = random_prompts(model.cfg.d_vocab, model.cfg.n_ctx)
        with undisturbed(model):
            rows = log_probabilities(model, prompts)
        columns = torch.linspace(0, rows.shape[1] - 1, 8).long()
        found = [[float(f"{value:.7g}") for value in row] for row in rows[:, columns].tolist()]
        machine = f"{platform.system()} {platform.machine()}"
        libraries = {name: version(name) for name in ("torch", "transformers", "transformer_lens")}
        made_with = {"python": platform.python_version(), "machine": machine} | libraries
        return cls(made_with | {"device": str(model.cfg.device)}, found)

    @classmethod
    def read(cls, text: str) -> "Provenance":
        """From a file's metadata."""
        return cls(**json.loads(text))

    def text(self) -> str:
        """For a file's metadata."""
        return json.dumps(asdict(self))

    def check(self, text: str | None, path: Path) -> None:
        """Raises ValueError where the model that a file was made with computed something else."""
        if text is None:
            raise ValueError(f"{path} does not say what it was made with: delete it.")
        kept = Provenance.read(text)
        found, expected = (torch.tensor(it.log_probabilities) for it in (self, kept))
        difference = largest_difference(found, expected)
        if not difference <= TOLERANCE:
            then, now = (
                ", ".join(f"{name} {value}" for name, value in sorted(it.made_with.items()))
                for it in (kept, self)
            )
            raise ValueError(
                f"{path} was made by a model that computed something else with the same weights "
                f"and configuration: log-probabilities differ by {difference:.1e} of the largest. "
                f"It was made with {then}, and this is {now}: use the same, or delete the file."
            )
