"""A record beside what the model says now."""

import json

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from analysis import activation_patching, integrated_gradients, load_task
from analysis.attribution.integrated_gradients import TOLERANCE
from analysis.choices import KINDS
from analysis.studies import records, store
from analysis.studies.records import MEASUREMENTS, Recorded


def check_a_sample(
    found: Recorded, model: TransformerBridge, name: records.Name, seed: int
) -> None:
    """Compares a few components of a record, on one random prompt, with the model's numbers."""
    task, direction, measurement = name
    of, random = MEASUREMENTS[measurement], np.random.default_rng(seed)
    pairs = load_task(task, model, n=len(found.scores.prompts), seed=records.SEED)
    settings = {"direction": direction} | of.settings(model)
    assert json.loads(found.metadata["key"]) == store.key_of(of.method, model, pairs, **settings)
    kind = of.kind or ("neurons" if of.neurons else KINDS[random.integers(2)])
    known = ~found.scores.of(kind).isnan()
    prompt = int(random.choice(known.flatten(1).any(dim=1).nonzero()[:, 0]))
    chosen = random.permutation(known[prompt].nonzero().numpy())[:6]
    total = found.scores.total.abs()
    settings = {"kinds": (kind,)}
    if of.method is activation_patching:
        settings = {"components": {kind: [(int(layer), int(index)) for layer, index in chosen]}}
    elif of.method is integrated_gradients:  # the same error as beside the other prompts
        settings["tolerance"] = TOLERANCE * (total.max() / total[prompt]).item()
    now = of.method(model, pairs.select([prompt]), direction=direction, progress=False, **settings)
    layers, indices = chosen.T
    was, is_ = found.scores.of(kind)[prompt], now.of(kind)[0]
    bound = 1e-4 * total.max()
    assert (was - is_)[layers, indices].abs().max() <= bound
    assert (found.scores.base[prompt] - now.base[0]).abs() <= bound
