"""What users get for what the library can't do: one sentence of its own.

The other tests check types while they run, which users don't: so these calls are made in a process
without that, and their errors are read here.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BEFORE = """
import json, sys, warnings
from dataclasses import replace
import torch
from analysis import activation_patching, integrated_gradients, load_model, load_task
from analysis.ablation import activation_differences, multi_ablated_performance
from analysis.mediation import component_effects, head_effects, mediate
from analysis.metrics import prob_diff
warnings.simplefilter("ignore")
tiny, testbed = load_model(sys.argv[1]), load_model("testbed")
pairs = load_task("ioi", tiny, n=2)
Other = type("Other", (), {})
told = {}
for call in json.load(sys.stdin):
    try:
        eval(call)
        told[call] = "no error"
    except Exception as error:
        told[call] = f"{type(error).__name__}: {error}"
json.dump(told, sys.stdout)
"""
CALLS = {
    "load_model(None)": "name was expected and None was given",
    "load_model('')": "name was expected and '' was given",
    "load_model(3)": "name was expected and 3",
    "load_model(sys.argv[1] + '/config.json')": "is a file: name the directory",
    "load_model('testbed', device='abacus')": "Device 'abacus' is not available here",
    "load_model('testbed', device=None)": "Device 'None' is not available here",
    "load_task(None, tiny)": "None",
    "load_task('ioi', tiny, n=1.5)": r"n=1\.5",
    "load_task('ioi', tiny, n='3')": "n='3'",
    "load_task('ioi', tiny, n=True)": "n=True",
    "load_task('ioi', tiny, n=-1)": "n=-1",
    "load_task('ioi', tiny, n=2, seed=0.5)": r"seed=0\.5",
    "load_task('ioi', tiny, n=2, split=None)": "no split None: expected one of 'held-out', 'train'",
    "activation_patching('testbed', pairs)": "model is of the type str.*load_model",
    "activation_patching(tiny, 'ioi')": "pairs is of the type str.*load_task",
    "activation_patching(tiny, pairs, direction=None)": "no direction None",
    "activation_patching(tiny, pairs, direction=['noising'])": "no direction",
    "activation_patching(tiny, pairs, baseline='noise')": "no baseline 'noise'",
    "activation_patching(tiny, pairs, kinds='heads')": r"kinds='heads'.*\('heads',\)",
    "activation_patching(tiny, pairs, kinds=('layers',))": "no kind 'layers'",
    "activation_patching(tiny, pairs, kinds=None)": "kinds=None",
    "activation_patching(tiny, pairs, memory=0)": "memory=0 was given",
    "activation_patching(tiny, pairs, memory='1 GB')": "memory='1 GB' was given",
    "activation_patching(tiny, pairs, checkpoints=3)": "checkpoints=3 was given.*folder",
    "activation_patching(tiny, pairs, checkpoints='')": "checkpoints='' was given",
    "activation_patching(tiny, pairs, checkpoints=sys.argv[1] + '/config.json')": "is a file",
    "integrated_gradients(tiny, pairs, steps=2.5)": r"steps=2\.5 was given",
    "integrated_gradients(tiny, pairs, tolerance=0)": "tolerance=0 was given: expected a number",
    "integrated_gradients(tiny, pairs, tolerance='1e-3')": "tolerance='1e-3' was given",
    "integrated_gradients(tiny, pairs, tolerance=0.1, steps=8)": "0.1.*steps=8.*give a tolerance",
    "integrated_gradients(tiny, pairs, steps=4, rule='clenshaw-curtis')": r"steps=4.*2\^k \+ 1",
    "integrated_gradients(tiny, pairs, steps=0)": "steps=0 was given",
    "integrated_gradients(tiny, pairs, steps=1, rule='trapezoid')": "steps=1.*at least 2",
    "integrated_gradients(tiny, pairs, rule='simpson')": "no rule 'simpson'",
    "integrated_gradients(tiny, pairs, path=None)": "no path None",
    "activation_patching(tiny, replace(pairs, metric=None))": "metric None.*function",
    "activation_patching(tiny, replace(pairs, metric=lambda a, b: a.sum()))": "one number for each",
    "multi_ablated_performance(tiny, pairs, None, 'heads')": "sets.*3 layers of 4 heads",
    "multi_ablated_performance(tiny, pairs, torch.ones(3, 4).bool().numpy(), 'heads')": "3 layers",
    "multi_ablated_performance(tiny, pairs, torch.ones(1, 3, 4).bool().numpy(), 'rows')": "no kind",
    "activation_differences(tiny, pairs, 'rows')": "no kind 'rows'",
    "component_effects(tiny, pairs, 'rows')": "no kind 'rows'",
    "component_effects(tiny, pairs, 'heads', 'heads')": "kinds='heads'",
    "component_effects(tiny, pairs, 'heads', ('layers',))": "no kind 'layers'",
    "head_effects(tiny, pairs, direction='sideways')": "no direction 'sideways'",
    "mediate(tiny, pairs, [], direction='up')": "no direction 'up'",
    "mediate(tiny, pairs, [(('heads', 0, 0), ('layers', 1, 0))])": "no kind 'layers'",
}


@pytest.fixture(scope="module")
def told(tiny_directory) -> dict[str, str]:
    """What each call says."""
    ran = subprocess.run(
        [sys.executable, "-c", BEFORE, str(tiny_directory)],
        input=json.dumps(list(CALLS)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_cannot_be_answered_is_one_sentence(told, call):
    assert told[call].startswith("ValueError: "), told[call]
    assert re.search(CALLS[call], told[call]), told[call]
    assert "\n" not in told[call] and told[call].endswith(".")
