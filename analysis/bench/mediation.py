"""What neuron to neuron takes on GPT-2 small's shape: every pair of one prompt, streamed."""

import time

from analysis.attribution.parts import MEMORY
from analysis.bench import measure
from analysis.bench.machine import describe, peak_memory
from analysis.bench.workloads import SHAPES, random_pairs
from analysis.forward import forward_of
from analysis.mediation import component_effects

TASK = "ioi"
SAMPLED = 64


def bench_mediation(progress: bool | None = None) -> dict:
    """Seconds, and the memory above the loaded model, ready for JSON.

    `pairs` counts those of a neuron and a later one.
    """
    model = measure.MODELS[measure.GPT2_SHAPE]()
    forward = forward_of(model)
    layers, neurons = forward.layers, forward.components("neurons")
    pairs = random_pairs(TASK, SHAPES[TASK], 1, model.cfg.d_vocab)
    start = time.perf_counter()
    memory = peak_memory(
        lambda: component_effects(
            model, pairs, "neurons", ("neurons",), sampled=SAMPLED, progress=progress
        )
    )
    return {
        "machine": describe(),
        "settings": {"shape": SHAPES[TASK]._asdict(), "memory": MEMORY, "sampled": SAMPLED},
        "model": measure.GPT2_SHAPE,
        "task": TASK,
        "pairs": layers * (layers - 1) // 2 * neurons**2,
        "seconds": time.perf_counter() - start,
        "memory": memory,
    }
