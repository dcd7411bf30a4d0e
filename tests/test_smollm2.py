"""SmolLM2, the real language model. Every test that loads it is here, so that one process does."""

import json
import random
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from architectures import BareHooks, Component, grouped
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st
from recorded import check_a_sample
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from torch import Tensor
from transformers import PreTrainedModel

from analysis import (
    PromptPairs,
    activation_patching,
    attribution_patching,
    integrated_gradients,
    load_task,
    model_card,
    paths,
)
from analysis.ablation import multi_ablated_performance
from analysis.attribution.integrated_gradients import integrate_jointly
from analysis.attribution.quadrature import quadrature
from analysis.choices import DIRECTIONS, KINDS, Kind
from analysis.forward import forward_of
from analysis.forward.decoder import Decoder
from analysis.gguf_files import packaged
from analysis.mediation import mediate
from analysis.sites import Plan
from analysis.sources import find, read_config, read_network
from analysis.studies import records
from analysis.studies.records import Recorded
from analysis.tasks import TASKS

CARD = json.loads((paths.MODELS / "smollm2" / "evaluation.json").read_text())
# llama.cpp's two patterns for a tokenizer of this kind: each digit, then GPT-2's words.
DIGIT = r"\p{N}"
WORD = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.fixture(scope="module")
def independent(smollm2) -> Tokenizer:
    """Vocabulary and merges straight from the file, split by llama.cpp's patterns."""
    reader = GGUFReader(packaged("smollm2"))
    tokens, merges = (
        reader.get_field(f"tokenizer.ggml.{part}").contents() for part in ("tokens", "merges")
    )
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(BPE(vocabulary, [tuple(pair.split(" ")) for pair in merges]))
    patterns = [Split(Regex(pattern), "isolated") for pattern in (DIGIT, WORD)]
    bytes_after = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = Sequence([*patterns, bytes_after])
    return tokenizer


# fmt: off
FIXED = {
    "When Mary and John went to the store, John gave a bottle of milk to":
        [2427, 5099, 284, 2322, 3514, 288, 260, 4249, 28, 2322, 4502, 253, 10765, 282, 4788, 288],
    "The war lasted from the year 1741 to the year 17":
        [504, 1913, 15298, 429, 260, 713, 216, 33, 39, 36, 33, 288, 260, 713, 216, 33, 39],
    "Tirana, the capital of":
        [68, 337, 3231, 28, 260, 3575, 282],
    "two  spaces  before  1741, and\n\ttabs":
        [11355, 216, 5600, 216, 1092, 256, 33, 39, 36, 33, 28, 284, 198, 197, 100, 7366],
    "Ünknown wörds, 日本, ½ and it's":
        [142, 246, 94, 3864, 267, 29989, 931, 28, 17097, 241, 115, 40993, 28, 216, 16738, 284,
         357, 506],
}
# fmt: on


@pytest.mark.parametrize("text", FIXED)
def test_token_ids_of_fixed_texts(smollm2, independent, text):
    found = smollm2.to_tokens(text)[0].tolist()
    assert found == [1, *FIXED[text]]
    assert independent.encode(text).ids == FIXED[text]
    assert smollm2.tokenizer.decode(found[1:]) == text


@given(texts=st.lists(st.text() | st.text("a1 9.\n\t'²x"), max_size=20))
def test_any_text_is_read_as_the_file_says(smollm2, independent, texts):
    for text in texts:
        assert smollm2.to_tokens(text)[0].tolist() == [1, *independent.encode(text).ids]


def test_it_is_the_model_that_the_card_describes(smollm2):
    assert model_card.facts("smollm2", smollm2).items() <= CARD.items()
    assert (smollm2.cfg.n_layers, smollm2.cfg.n_heads, smollm2.cfg.d_mlp) == (30, 9, 1536)
    assert smollm2.cfg.model_name == "smollm2"


def test_a_sentence_that_it_completes(smollm2):
    prompt = "When Mary and John went to the store, John gave a bottle of milk to"
    mary = smollm2.to_single_token(" Mary")
    assert smollm2(prompt)[0, -1].softmax(dim=-1)[mary] > 0.8


def test_the_cards_numbers_are_what_is_measured(smollm2):
    for front, found in model_card.evaluate(smollm2, "gender-bias").items():
        assert found == pytest.approx(CARD["tasks"]["gender-bias"][front], abs=2e-3)
    assert smollm2.cfg.default_prepend_bos


def test_greater_than_is_another_task_here(smollm2):
    pairs = load_task("greater-than", smollm2, n=3)
    assert pairs.task == CARD["tasks"]["greater-than"]["with BOS"]["task"]
    assert pairs.task == "greater-than by digits"


def test_the_card_beside_the_records_is_theirs():
    written = (paths.MODELS / "smollm2" / "README.md").read_text()
    assert written == model_card.card("smollm2", CARD)
    found = CARD["tasks"]["ioi"]["without BOS"]
    numbers = f"{found['accuracy']:.0%} | {found['clean']:.2f} | {found['corrupted']:.2f} |"
    assert f"| ioi | without BOS | {numbers}" in written
    assert all(both["with BOS"]["prompts"] == model_card.PROMPTS for both in CARD["tasks"].values())


LAYERS, SIZES = 30, {"heads": 9, "neurons": 1536}
COMPONENTS, TOLERANCE, STEPS = 40, 1e-4, 3


class Beside(NamedTuple):
    """A task's pairs, of one length, and the same in bare hooks on transformers' own network."""

    pairs: PromptPairs
    bare: BareHooks

    def close(self, found: Tensor, expected: Tensor) -> bool:
        """Relative to the largest |total effect|."""
        metric = self.bare.metric(self.bare.base), self.bare.metric(self.bare.source)
        allowed = TOLERANCE * (metric[1] - metric[0]).abs().max()
        assert expected.abs().max() > 0, "nothing happens"
        return bool((found - expected).abs().max() <= allowed)


@pytest.fixture(scope="module")
def engine(smollm2) -> Decoder:
    """The exact one, of which no warning tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forward = forward_of(smollm2)
    assert isinstance(forward, Decoder)
    return forward


@pytest.fixture(scope="module")
def network(smollm2) -> PreTrainedModel:
    """transformers' own, from the file, as the bridge has not seen it."""
    source = find("smollm2")
    return read_network(source, read_config(source)).requires_grad_(False)


@pytest.fixture(scope="module", params=TASKS)
def beside(request, smollm2, network) -> Beside:
    pairs = load_task(request.param, smollm2, n=12)
    two = next(group[:2] for group in pairs.groups() if len(group) > 1)
    pairs = pairs.select(two)
    return Beside(pairs, BareHooks(network, grouped("Llama"), pairs, heads=SIZES["heads"]))


def drawn(kind: Kind, number: int) -> list[Component]:
    """Components of a kind at random, of all layers."""
    every = [(kind, layer, index) for layer in range(LAYERS) for index in range(SIZES[kind])]
    return random.Random(f"{kind} {number}").sample(every, number)


def test_patching_is_that_of_bare_hooks(smollm2, beside):
    """Half of them heads, half neurons."""
    chosen = {kind: drawn(kind, COMPONENTS // 2) for kind in KINDS}
    asked = {kind: [at[1:] for at in components] for kind, components in chosen.items()}
    found = activation_patching(smollm2, beside.pairs, components=asked)
    every = [component for kind in KINDS for component in chosen[kind]]
    values = beside.bare.entering_all({at[:2] for at in every}, beside.bare.source)
    before = beside.bare.metric(beside.bare.base)
    for kind, components in chosen.items():
        runs = [
            beside.bare.metric(beside.bare.base, beside.bare.put_in({at[:2]: values[at[:2]]}, [at]))
            for at in components
        ]
        layers, indices = (list(of) for of in zip(*asked[kind], strict=True))
        expected = torch.stack([run - before for run in runs], dim=1)
        assert beside.close(found.of(kind)[:, layers, indices], expected)
        assert found.of(kind).isfinite().sum() == len(beside.pairs) * len(components)


def test_integration_is_that_of_bare_hooks(engine, beside):
    plan = Plan(engine, beside.pairs)
    for key in (("heads", 4), ("neurons", 22)):
        found = torch.zeros(len(beside.pairs), SIZES[key[0]])
        for part in plan.parts():
            rule = quadrature("gauss-legendre", STEPS)
            found[plan.rows(part)] = integrate_jointly(part.site(key), *rule)
        assert beside.close(found, beside.bare.integrated(*key, STEPS))


def test_ablation_of_a_set_is_that_of_bare_hooks(smollm2, beside):
    components = drawn("neurons", 12)
    mask = np.zeros((1, LAYERS, SIZES["neurons"]), dtype=bool)
    for _, layer, index in components:
        mask[0, layer, index] = True
    found = multi_ablated_performance(smollm2, beside.pairs, mask, "neurons")[0]
    before = beside.bare.metric(beside.bare.base)
    assert beside.close(found - before, beside.bare.ablated(components) - before)


def test_mediation_is_that_of_bare_hooks(smollm2, beside):
    link = ("heads", 6, 2), ("neurons", 11, 321)
    found = mediate(smollm2, beside.pairs, [link])[:3, :, 0]
    assert all(map(beside.close, found, beside.bare.mediated(*link)))


def test_integration_to_a_tolerance_keeps_its_promise(smollm2):
    """In every layer, as no warning says otherwise; the gradient at the base is far from it."""
    pairs = load_task("gender-bias", smollm2, n=1)
    at_once = attribution_patching(smollm2, pairs)
    ig = integrated_gradients(smollm2, pairs)
    allowed = 1e-3 * ig.total.abs().max()
    for kind in KINDS:
        assert ig.gaps(kind).shape == (1, LAYERS)
        assert ig.gaps(kind).abs().max() <= allowed
        effects = ig.of(kind).sum(dim=2) - ig.gaps(kind)
        assert (at_once.of(kind).sum(dim=2) - effects).abs().max() > 100 * allowed


@pytest.mark.parametrize(
    "name", [name for name in records.names() if records.exists("smollm2", *name)], ids="-".join
)
def test_a_sample_of_each_record_is_what_the_model_says(smollm2, name):
    found = records.read("smollm2", *name)
    assert json.loads(found.metadata["key"])["model"] == CARD["fingerprint"]
    check_a_sample(found, smollm2, name, seed=len("".join(name)))


def averaged(smollm2, method: str) -> tuple[Recorded, PromptPairs]:
    """A random record of a method, and the prompts that its means are of."""
    draw = random.Random(method)
    found = records.read("smollm2", draw.choice(list(TASKS)), draw.choice(DIRECTIONS), method)
    return found, load_task(found.scores.task, smollm2, n=found.averaged)


def test_a_records_means_are_those_of_the_model(smollm2):
    found, pairs = averaged(smollm2, "AtP")
    settings = {"direction": found.scores.direction, "kinds": ("neurons",)}
    now = attribution_patching(smollm2, pairs, **settings).neurons
    assert (now.mean(dim=0) - found.mean).abs().max() <= 1e-4 * found.scores.total.abs().max()
    torch.testing.assert_close(now.var(dim=0), found.variance, rtol=1e-2, atol=1e-9)


@torch.no_grad()
def test_a_layers_means_sum_to_what_patching_it_does_and_the_gap(smollm2, engine):
    found, pairs = averaged(smollm2, "IG")
    gap, bound = found.scores.neurons_gap.mean(dim=0), 1e-4 * found.scores.total.abs().max()
    plan = Plan(engine, pairs, found.scores.direction)
    effects = torch.zeros(len(pairs), 3)
    layers = [0, *random.Random("layers").sample(range(1, LAYERS), 2)]
    for part in plan.parts():
        for column, site in enumerate(part.site(("neurons", layer)) for layer in layers):
            effects[plan.rows(part), column] = site.resume(site.joint_change()) - site.base
    summed = found.mean.sum(dim=1) - gap
    assert (summed[layers] - effects.mean(dim=0)).abs().max() <= bound


def test_every_record_ships_and_all_are_small():
    assert records.ship("smollm2")
    assert sum(path.stat().st_size for path in paths.RECORDS.rglob("*.parquet")) <= 12e6
