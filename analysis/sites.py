"""Which prompts run together, from which position on, and in how much memory: asked once a call.

A *plan* divides a data set into *parts*, prompts of one length with both their runs. A *site* is
one layer's heads or neurons in a part's base run. Every method is a function of one site.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from analysis.checks import made_by, one_of, whole
from analysis.choices import BASELINES, DIRECTIONS, KINDS, Baseline, Direction, Kind
from analysis.forward import Activations, BaseRun, Forward, SiteKey, forward_of, undisturbed
from analysis.forward.engine import Gradients
from analysis.metrics import Readout, name_of
from analysis.tasks import PromptPairs

FEWEST_FOR_A_MEAN = 8
# On a language model of 30 layers a quarter of it takes nearly twice as long; more gains little.
MEMORY = 2**29


@contextmanager
def engine(model: TransformerBridge, pairs: PromptPairs) -> Iterator[Forward]:
    """The model's engine, alone with the model; refuses pairs of another model's tokenizer."""
    made_by("load_model", "model", model, TransformerBridge)
    made_by("load_task", "pairs", pairs, PromptPairs)
    if not callable(pairs.metric):
        raise ValueError(f"The metric {pairs.metric!r} was given: expected a function.")
    with undisturbed(model):
        pairs.check(model)
        yield forward_of(model)


@dataclass(frozen=True)
class Site:
    """One layer's heads or neurons in a base run, from the first changed position on.

    `difference` is Δa, what changes each activation to the baseline's; `writes` are the output
    weights W; `resume` gives the metric after adding a change to what the site writes, on all
    prompts or on some by their rows; `base` is the metric without any. `batch` says how many
    changes of all prompts `resume` should be given at once, and `gradient_batch` how many if it is
    to be differentiated. `whole` says whether these are all of the layer's components.
    """

    kind: Kind
    layer: int
    difference: Float[Tensor, "prompt changed component size"]
    writes: Float[Tensor, "component size d_model"]
    base: Float[Tensor, " prompt"]
    resume: "Resume"
    batch: int
    gradient_batch: int
    whole: bool = True

    @property
    def key(self) -> SiteKey:
        """Its kind and layer."""
        return self.kind, self.layer

    def select(self, components: list[int]) -> "Site":
        """The site of some of its components: the others stay as they are."""
        if components == [*range(len(self.writes))]:
            return self
        difference, writes = self.difference[:, :, components], self.writes[components]
        return replace(self, difference=difference, writes=writes, whole=False)

    def changes(self, gradient: bool = False) -> Iterator[Float[Tensor, "component _ _ d_model"]]:
        """Δa W (component, prompt, changed, d_model), what each alone writes more, in batches."""
        size = self.gradient_batch if gradient else self.batch
        differences, writes = self.difference.split(size, dim=2), self.writes.split(size)
        yield from map(partial(torch.einsum, "ptcs,csd->cptd"), differences, writes)

    def joint_change(self) -> Float[Tensor, "prompt changed d_model"]:
        """Σ Δa W, what all components of the layer together write more."""
        return torch.einsum("ptcs,csd->ptd", self.difference, self.writes)


class Resume(Protocol):
    """Changes (*batch, prompt, changed, d_model) of all or some prompts to m (*batch, prompt)."""

    def __call__(self, change: Tensor, prompts: list[int] | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Part:
    """Some prompts of one length, by their indices in the data set, and both their runs.

    `values` takes the place of the base activations; `memory` bounds the bytes held in resuming;
    `scale` gives the largest |total effect| of the data set.
    """

    prompts: list[int]
    base: BaseRun
    source: BaseRun
    readout: Readout
    values: Activations
    memory: int
    scale: Callable[[], float]

    def sites(self, kinds: tuple[Kind, ...] = KINDS) -> Iterator[Site]:
        """Every layer's heads, neurons, or both."""
        return (self.site(key) for key in self.base.activations if key[0] in kinds)

    def site(self, key: SiteKey) -> Site:
        """One layer's heads or neurons."""
        return Site(
            *key,
            difference=self.values[key] - self.base.activations[key],
            writes=self.base.forward.writes(key),
            base=self.measure(self.base),
            resume=partial(self._resume, key),
            batch=self.batch(gradient=False),
            gradient_batch=self.batch(gradient=True),
        )

    def select(self, rows: list[int]) -> "Part":
        """Some of its prompts, by their rows."""
        return replace(
            self,
            prompts=[self.prompts[row] for row in rows],
            base=self.base.select(rows),
            source=self.source.select(rows),
            readout=self.readout.select(rows),
            values={key: of if len(of) == 1 else of[rows] for key, of in self.values.items()},
        )

    def _resume(self, key: SiteKey, change: Tensor, prompts: list[int] | None = None) -> Tensor:
        run, readout = self.base, self.readout
        if prompts is not None:
            run, readout = run.select(prompts), readout.select(prompts)
        return run.forward.resume(run, key, change, readout)

    def gradients(self, alpha: float = 0.0, prompts: list[int] | None = None) -> Gradients:
        """∂m/∂r just after each site, from one pass for all of them, on all prompts or some.

        In the base run, or in the one whose embedding is `alpha` of the way to the source's.
        """
        change = alpha * (self.source.embedded - self.base.embedded)
        if prompts is None:
            return self.base.forward.gradients(self.base, change, self.readout)
        run, readout = self.base.select(prompts), self.readout.select(prompts)
        return run.forward.gradients(run, change[prompts], readout)

    def measure(self, run: BaseRun) -> Float[Tensor, " prompt"]:
        """The metric of one of the two runs."""
        return self.readout.of_vocabulary(run.logits)

    def work(self, layer: int) -> int:
        """What it costs to resume the run once from this layer, in layers and positions."""
        return self.base.tokens[:, self.base.first :].numel() * (self.base.forward.layers - layer)

    def batch(self, gradient: bool) -> int:
        """How many changes can be resumed at once."""
        (prompts, length), run = self.base.tokens.shape, self.base
        held = run.forward.floats_held(length, run.first, self.readout, gradient)
        return fitting(self.memory, run.forward, prompts * held)


def fitting(memory: int, forward: Forward, floats: int) -> int:
    """How often so many numbers fit into the memory; once at least."""
    return max(1, memory // (forward.itemsize * floats))


@dataclass
class Plan:
    """A data set divided into parts; refuses unknown choices, and a mean of too few prompts.

    With `baseline="source"` nothing changes before a prompt's first differing token, and prompts of
    one length and one such position run together; else those of one length. A mean needs enough of
    them, and leaves the others out: `prompts` holds the indices of those that remain, in order.
    `tokens` counts their tokens that a change reaches; `work` is `Part.work` of all layers and
    parts; `scale` gives the largest |total effect|. A quarter of the memory is for the runs that
    are kept, the rest for resuming them.
    """

    forward: Forward
    pairs: PromptPairs
    direction: Direction = "noising"
    baseline: Baseline = "source"
    memory: int = MEMORY

    def __post_init__(self) -> None:
        one_of("direction", self.direction, DIRECTIONS)
        one_of("baseline", self.baseline, BASELINES)
        self._resuming = whole("memory", self.memory, least=1) - self.memory // 4
        sides = self.pairs.clean_tokens, self.pairs.corrupted_tokens
        self._base, self._source = sides if self.direction == "noising" else sides[::-1]
        self._groups = self._group()
        self.scale = cache(self._largest_total)
        after = {i: len(self._base[i]) - first for group, first in self._groups for i in group}
        self.prompts, self.tokens = torch.tensor([*sorted(after)]).long(), sum(after.values())
        self.work = self.tokens * sum(range(self.forward.layers + 1))

    def rows(self, part: Part) -> Int[Tensor, " prompt"]:
        """Where the part's prompts stand in `prompts`."""
        return torch.searchsorted(self.prompts, torch.tensor(part.prompts))

    def parts(self) -> Iterator[Part]:
        """Every part; raises a ValueError where logits or the metric are not finite."""
        for group, first in self._groups:
            base, source = (
                torch.stack([side[index] for index in group]).to(self.forward.device)
                for side in (self._base, self._source)
            )
            chunks = self._chunks(base, first)
            values_of = self._values(source, chunks)
            for chunk in chunks:
                prompts = group[chunk]
                labels = self.pairs.labels[torch.tensor(prompts)].to(self.forward.device)
                readout = Readout(self.pairs.metric, labels)
                runs = (self.forward.run(side[chunk], first) for side in (base, source))
                base_run, source_run = (self._checked(run, prompts, readout) for run in runs)
                values, bound = values_of(source_run), self._resuming
                yield Part(prompts, base_run, source_run, readout, values, bound, self.scale)

    def _largest_total(self) -> float:
        """By a pass over the data set of its own: every site is judged by all prompts."""
        totals = (part.measure(part.source) - part.measure(part.base) for part in self.parts())
        return max((total.abs().max().item() for total in totals), default=0.0)

    def _group(self) -> list[tuple[list[int], int]]:
        """Prompts that run together, and the first position that changes."""
        together: dict[tuple[int, int], list[int]] = {}
        for index, (base, source) in enumerate(zip(self._base, self._source, strict=True)):
            first = first_difference(base, source) if self.baseline == "source" else 0
            together.setdefault((len(base), first), []).append(index)
        fewest = FEWEST_FOR_A_MEAN if self.baseline == "mean" else 1
        if together and max(map(len, together.values())) < fewest:
            raise ValueError(
                f"{self.pairs.task}: baseline='mean' needs {fewest} prompts of one length; no "
                "length has as many. Use more prompts or another baseline."
            )
        groups = ((group, first) for (_, first), group in sorted(together.items()))
        return [(group, first) for group, first in groups if len(group) >= fewest]

    def _chunks(self, tokens: Int[Tensor, "prompt position"], first: int) -> list[slice]:
        """As many prompts as fit: two runs and a difference, and each resumed with one change."""
        prompts, length = tokens.shape
        every = Readout(self.pairs.metric, self.pairs.labels)
        kept = 3 * self.forward.floats_kept(length, first)
        held = self.forward.floats_held(length, first, every, gradient=True)
        budgets = (self.memory - self._resuming, kept), (self._resuming, held)
        size = min(fitting(memory, self.forward, floats) for memory, floats in budgets)
        return [slice(start, start + size) for start in range(0, prompts, size)]

    def _checked(self, run: BaseRun, prompts: list[int], readout: Readout) -> BaseRun:
        """The run, if logits and metric are finite, and the metric is of each prompt by itself."""
        metric = readout.of_vocabulary(run.logits)
        start, called = f"{self.pairs.task}: ", name_of(readout.metric)
        for what, values in (("logits are", run.logits), (f"{called} is", metric[:, None])):
            if (broken := ~torch.isfinite(values).all(dim=-1)).any():
                index = prompts[int(broken.int().argmax())]
                raise ValueError(
                    f"{start}the model's {what} NaN or infinite on prompt {index} or its "
                    f"corruption ({self.pairs.clean[index]!r}): check the weights and the metric."
                )
        first = Readout(readout.metric, readout.labels[:1]).of_vocabulary(run.logits[:1])
        if not torch.isclose(first[0], metric[0], rtol=1e-3, atol=1e-5):
            raise ValueError(
                f"{start}{called} gives a prompt {metric[0]:.3g} beside others and {first[0]:.3g} "
                "alone: it must depend on a prompt's own logits and labels only."
            )
        return run

    def _values(
        self, source: Int[Tensor, "prompt position"], chunks: list[slice]
    ) -> Callable[[BaseRun], Activations]:
        """What takes the place of the base activations, given the same prompts' source run."""
        if self.baseline == "source":
            return lambda run: run.activations
        if self.baseline == "zero":
            return lambda run: {key: torch.zeros_like(a) for key, a in run.activations.items()}
        sums: Activations = {}
        for chunk in chunks:
            for key, activations in self.forward.run(source[chunk]).activations.items():
                sums[key] = sums.get(key, 0) + activations.sum(dim=0, keepdim=True)
        means = {key: total / len(source) for key, total in sums.items()}
        return lambda run: means


def first_difference(tokens: Int[Tensor, " position"], others: Int[Tensor, " position"]) -> int:
    """The first position at which two prompts differ; the last one where they don't."""
    differing = (tokens != others).nonzero()
    return int(differing[0]) if len(differing) else len(tokens) - 1
