"""The general engine: any decoder that TransformerLens's bridge runs, through its hooks.

Every resumed run is a whole forward pass, so it is slow; it exists so that
architectures without an exact engine have the same methods and the same numbers. The input of the
output projection of a layer's attention or MLP is its components' activations, its weights are what
they write. A change is added to its output; what follows is the model's own.
"""

from collections.abc import Callable, Container, Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge import generalized_components as bridges
from transformers.pytorch_utils import Conv1D

from analysis.choices import KINDS, Kind
from analysis.forward.engine import (
    Activations,
    BaseRun,
    Change,
    Chosen,
    Forward,
    Gradients,
    SiteKey,
    Traced,
)
from analysis.metrics import Readout

Hook = tuple[str | Callable, Callable]  # as the bridge declares it
Weights = dict[SiteKey, Float[Tensor, "_ _ d_model"]]  # (component, size, d_model) by site

_PROJECTIONS: dict[Kind, str] = {"heads": "attn.o", "neurons": "mlp.out"}
_PARTS: dict[Kind, str] = {"heads": "attention", "neurons": "MLP"}
_EMBEDDED = "blocks.0.hook_in"
_IN, _OUT = ".hook_in", ".hook_out"
_TOLERANCE = 1e-3  # relative
_INSTEAD = "use a decoder such as GPT-2, Llama, Qwen or Pythia"


class HookedForward(Forward):
    """A model's own forward pass, changed by hooks.

    A model may lack one kind of component, as a mixture of experts lacks neurons: a run then holds
    the other one, and `writes` says why.
    """

    def __init__(self, model: TransformerBridge):
        self.model, self.layers = model, model.cfg.n_layers
        parameter = next(model.parameters())
        self.device, self.itemsize = parameter.device, parameter.itemsize
        self._weights, self._missing = _read_projections(model)
        self.parallel = not self._missing and _is_parallel(model)
        # A token's numbers in the stream or in all heads, and in an MLP or its active experts.
        config = model.cfg
        self._width = max(config.d_model, config.n_heads * config.d_head)
        self._neurons = (config.d_mlp or 4 * config.d_model) * (config.experts_per_token or 1)
        if "neurons" not in self._missing:
            self._neurons = self.components("neurons")

    def writes(self, site: SiteKey) -> Float[Tensor, "component size d_model"]:
        if site[0] in self._missing:
            raise ValueError(self._missing[site[0]])
        return self._weights[site]

    def sites(self) -> list[SiteKey]:
        return [site for site in super().sites() if site in self._weights]

    @torch.no_grad()
    def run(self, tokens: Int[Tensor, "prompt position"], first: int = 0) -> BaseRun:
        logits, cache = _run(self.model, tokens, keep=_hooks_of(self.sites()) | {_EMBEDDED})
        activations = {
            site: self._by_component(site, cache[_hook(site, _IN)])[:, first:].clone()
            for site in self.sites()
        }
        embedded = cache[_EMBEDDED][:, first:].clone()
        return BaseRun(self, tokens, first, activations, logits[:, -1].clone(), embedded)

    def resume(
        self, run: BaseRun, site: SiteKey, change: Change, readout: Readout
    ) -> Float[Tensor, "*batch prompt"]:
        tokens = run.tokens.repeat(change.shape[:-3].numel(), 1)
        logits, _ = _run(self.model, tokens, [_adding(run, _hook(site, _OUT), change)])
        return readout.of_vocabulary(logits[:, -1].unflatten(0, change.shape[:-2]))

    @torch.enable_grad()
    def gradients(self, run: BaseRun, change: Change, readout: Readout) -> Gradients:
        tokens = run.tokens.repeat(change.shape[:-3].numel(), 1)
        written: dict[SiteKey, Tensor] = {}

        def keeping(site: SiteKey) -> Hook:
            """Hands on what it keeps: the bridge may give a hook another shape of it."""
            return _hook(site, _OUT), lambda passing, hook: written.setdefault(site, passing)

        hooks = [_adding(run, _EMBEDDED, change.detach().requires_grad_())]
        logits, _ = _run(self.model, tokens, hooks + [keeping(site) for site in self.sites()])
        metric = readout.of_vocabulary(logits[:, -1].unflatten(0, change.shape[:-2]))
        found = self.differentiate(metric, [written[site] for site in self.sites()])
        return {
            site: gradient[:, run.first :].unflatten(0, change.shape[:-2])
            for site, gradient in zip(self.sites(), found, strict=True)
        }

    @torch.no_grad()
    def trace(self, run: BaseRun, site: SiteKey, change: Change) -> Traced:
        """Keeps all sites until the last is yielded: the run is one."""
        sites = self.sites_after(site)
        tokens = run.tokens.repeat(change.shape[:-3].numel(), 1)
        keep = {_hook(later, _IN) for later in sites}
        _, cache = _run(self.model, tokens, [_adding(run, _hook(site, _OUT), change)], keep)
        for later in sites:
            changed = self._by_component(later, cache[_hook(later, _IN)])[:, run.first :]
            yield later, changed.unflatten(0, change.shape[:-2])

    @torch.no_grad()
    def replace(
        self, run: BaseRun, values: Activations, chosen: Chosen, readout: Readout
    ) -> Float[Tensor, "set prompt"]:
        sets = len(next(iter(chosen.values())))

        def hook_for(site: SiteKey) -> Hook:
            self.writes(site)  # or the sentence that says why there are none

            def edit(activations: Tensor, hook: object) -> Tensor:
                shaped, here = self._by_component(site, activations), chosen[site[0]][:, site[1]]
                late = self.replaced(shaped[:, run.first :], values[site], here)
                return torch.cat([shaped[:, : run.first], late], dim=1).view_as(activations)

            return _hook(site, _IN), edit

        hooks = [hook_for((kind, layer)) for kind in chosen for layer in range(self.layers)]
        logits, _ = _run(self.model, run.tokens.repeat(sets, 1), hooks)
        return readout.of_vocabulary(logits[:, -1].unflatten(0, (sets, -1)))

    def floats_kept(self, length: int, first: int) -> int:
        kept = self.layers * (8 * self._width + 2 * self._neurons)
        return length * (kept + self.model.cfg.d_vocab)

    def floats_held(self, length: int, first: int, readout: Readout, gradient: bool) -> int:
        blocks = (12 * self._width + 6 * self._neurons) * (self.layers if gradient else 1)
        return length * (blocks + 3 * self.model.cfg.d_vocab)

    def floats_traced(self, length: int, first: int) -> int:
        block = 12 * self._width + 6 * self._neurons
        kept = self.layers * (2 * self._width + self._neurons)
        return length * (block + kept + self.model.cfg.d_vocab)

    def _by_component(
        self, site: SiteKey, activations: Float[Tensor, "row position *_"]
    ) -> Float[Tensor, "row position component size"]:
        """What enters a projection, flat or by head, as its components' activations."""
        return activations.reshape(*activations.shape[:2], *self._weights[site].shape[:2])


def _adding(run: BaseRun, name: str, change: Change) -> Hook:
    """A hook that adds `change` to what passes there."""
    added = functional.pad(change.flatten(0, -3), (0, 0, run.first, 0))
    return name, lambda passing, hook: passing + added


def _hook(site: SiteKey, end: str = "") -> str:
    """A site's projection; with `_IN` the hook of what enters it, with `_OUT` of what leaves it."""
    return f"blocks.{site[1]}.{_PROJECTIONS[site[0]]}{end}"


def _hooks_of(sites: Iterable[SiteKey]) -> set[str]:
    return {_hook(site, end) for site in sites for end in (_IN, _OUT)}


def _run(
    model: TransformerBridge,
    tokens: Int[Tensor, "row position"],
    hooks: Iterable[Hook] = (),
    keep: Container[str] = (),
) -> tuple[Float[Tensor, "row position vocabulary"], ActivationCache]:
    """The logits, and what passes the hooks to keep.

    With `use_attn_result` the bridge sums heads up without their projection: it is off here.
    """
    before = bool(model.cfg.use_attn_result)
    model.set_use_attn_result(False)
    try:
        with model.hooks(fwd_hooks=[*hooks]):
            return model.run_with_cache(tokens, names_filter=lambda name: name in keep)
    finally:
        model.set_use_attn_result(before)


class _MissingError(Exception):
    """A kind of component that can't be scored; the message is the reason."""


def _read_projections(model: TransformerBridge) -> tuple[Weights, dict[Kind, str]]:
    """Every site's writing weights, and for a kind that has none a sentence that says why.

    A kind needs a linear projection of equally many components in every layer.
    """
    seen, name = _run_a_few_tokens(model), model.cfg.architecture
    weights, missing = {}, {}
    for kind in KINDS:
        try:
            weights |= _weights(model, kind, seen)
        except _MissingError as error:
            missing[kind] = str(error)
    if not weights:
        raise ValueError(
            f"{name} has neither heads nor neurons that can be scored: "
            f"{', and '.join(dict.fromkeys(missing.values()))}; {_INSTEAD}."
        )
    for kind, reason in missing.items():
        (other,) = set(KINDS) - {kind}
        missing[kind] = (
            f"{name} has no {kind} that can be scored: {reason}; score its {other} alone, with "
            f"kinds={(other,)!r}, or {_INSTEAD}."
        )
    return weights, missing


@torch.no_grad()
def _run_a_few_tokens(model: TransformerBridge) -> dict[str, Tensor]:
    """What enters and leaves each projection that is there, for two prompts that begin alike."""
    names = _hooks_of((kind, layer) for kind in KINDS for layer in range(model.cfg.n_layers))
    tokens = torch.tensor([[0, 1, 2, 3], [0, 1, 4, 5]], device=next(model.parameters()).device)
    _, cache = _run(model, tokens, keep=names)
    seen = {name: values for name, values in cache.items() if values.shape[:2] == tokens.shape}
    for values in seen.values():
        early = values[:, :2]
        if (early[0] - early[1]).abs().max() > _TOLERANCE * values.abs().max():
            raise ValueError(
                f"In {model.cfg.architecture} a token changes what comes before it: only models "
                f"that read from left to right can be scored, so {_INSTEAD}."
            )
    return seen


@torch.no_grad()
def _is_parallel(model: TransformerBridge) -> bool:
    """Whether the first layer's MLP sees nothing of what its heads write."""
    tokens = torch.tensor([[0, 1]], device=next(model.parameters()).device)
    seen, heads = _hook(("neurons", 0), _IN), _hook(("heads", 0), _OUT)

    def more(written: Tensor, hook: object) -> Tensor:
        return written + torch.linspace(0, 1, written.shape[-1]).to(written)

    plain, changed = (_run(model, tokens, hooks, {seen})[1] for hooks in ((), [(heads, more)]))
    return torch.equal(plain[seen], changed[seen])


def _weights(model: TransformerBridge, kind: Kind, seen: dict[str, Tensor]) -> Weights:
    found: Weights = {}
    for layer in range(model.cfg.n_layers):
        site = kind, layer
        found[site] = weight = _weight(model, site, seen)
        # Activations times weights are what is written, up to a constant: the bias.
        activations, written = seen[_hook(site, _IN)], seen[_hook(site, _OUT)]
        gap = written - activations.flatten(2) @ weight.flatten(0, 1)
        if (gap - gap[:1, :1]).abs().max() > _TOLERANCE * written.abs().max():
            raise _MissingError(
                f"the {_PARTS[kind]} output projection of layer {layer} isn't linear"
            )
        if len(weight) != len(found[kind, 0]):
            raise _MissingError(f"layers 0 and {layer} have unequal numbers of {kind}")
    return found


def _weight(
    model: TransformerBridge, site: SiteKey, seen: dict[str, Tensor]
) -> Float[Tensor, "component size d_model"]:
    kind, layer = site
    if not hasattr(model, "blocks"):
        raise _MissingError("its layers are no single sequence")
    if not _hooks_of([site]) <= set(seen):
        block = model.blocks[layer]
        if kind == "neurons" and isinstance(getattr(block, "mlp", None), bridges.MoEBridge):
            raise _MissingError("its MLPs are mixtures of experts")
        parts = ", ".join(name for name, _ in block.original_component.named_children())
        raise _MissingError(f"layer {layer} ({parts}) has no {_PARTS[kind]} output projection")
    projection = model.get_submodule(_hook(site))
    assert isinstance(projection, bridges.LinearBridge) and isinstance(projection.weight, Tensor)
    weight = projection.weight.detach()
    if not isinstance(projection.original_component, Conv1D):
        weight = weight.T
    return weight.unflatten(0, (model.cfg.n_heads, -1) if kind == "heads" else (-1, 1))
