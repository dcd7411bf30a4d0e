"""The original's record: what it published, where its functions went, and what guards each fault.

Published figures are GPT-2 small's, the original's on 100 prompts a task; nothing here is computed.
The original's task data are those of Hanna et al. (2024), whose figures and others' stand beside.
"""

import polars as pl

# Reported: the mean over prompts of a signed r, and its standard deviation. Recomputed from the
# head scores of every prompt, which the original's repository has: the mean |r|, and on how many of
# 100 prompts the denominator is negative.
CORRELATIONS = pl.DataFrame(
    [
        ("ioi", 0.782, 0.56, 0.816, 0.57, 0.996, 9),
        ("greater-than", 0.893, 0.06, 0.994, 0.004, 0.994, 0),
        ("gender-bias", 0.873, 0.32, 0.939, 0.34, 0.999, 3),
        ("capital-country", 0.652, 0.68, 0.697, 0.71, 0.994, 15),
    ],
    schema=["task", "neurons", "neurons_sd", "heads", "heads_sd", "absolute", "flips"],
    orient="row",
)

# How many of 100 clean prompts end in padding, and their mean metric there and at the last token.
# Greater-than's have one length, and were not recomputed.
READINGS = pl.DataFrame(
    [
        ("ioi", 75, 0.574, 3.807),
        ("gender-bias", 47, 0.486, 0.881),
        ("capital-country", 66, -0.081, 6.123),
    ],
    schema=["task", "padded", "wrong", "right"],
    orient="row",
)

# The mean metric of GPT-2 small on the data sets of Hanna et al. (2024), from the results in the
# repository that has them. IOI's corrupted prompts name a third person there.
METRICS = pl.DataFrame(
    [
        ("ioi", 3.807, 0.032),
        ("greater-than", 0.814, -0.457),
        ("gender-bias", 0.881, -3.221),
        ("capital-country", 6.123, -6.719),
    ],
    schema=["task", "clean", "corrupted"],
    orient="row",
)

# Heads of GPT-2 small's circuits, as (layer, head): Wang et al. (2023) for IOI, Hanna et al. (2023)
# for greater-than, both as the code of Conmy et al. (2023) has them.
HEADS: dict[tuple[str, str], tuple[tuple[int, int], ...]] = {
    ("ioi", "name movers"): ((9, 9), (9, 6), (10, 0)),
    ("ioi", "negative name movers"): ((10, 7), (11, 10)),
    ("ioi", "S-inhibition heads"): ((7, 3), (7, 9), (8, 6), (8, 10)),
    ("greater-than", "heads on the start year"): ((5, 5), (6, 1), (6, 9), (7, 10), (8, 11), (9, 1)),
}

_REPRODUCED = (
    (
        "The four tasks' prompts",
        "generated anew after the papers; no data file is copied",
        "[Methods](methods.qmd)",
    ),
    (
        "The original's faults",
        "each made again on the page's model",
        "[The original](original.qmd)",
    ),
    (
        "The original's correlations on GPT-2 small",
        "not run again; heads' recomputed from its published scores",
        "[The original](original.qmd)",
    ),
    (
        "IG against AP, every head and neuron, both directions",
        "on the page's model",
        "[Agreement](aligned-baselines.qmd)",
    ),
    (
        "Other baselines, rules and numbers of steps",
        "on the page's model",
        "[Alignment](alignment.qmd)",
    ),
    (
        "MIB's CPR and CMD",
        "the measures, over heads and neurons; not its benchmark",
        "[Consequences](consequences.qmd)",
    ),
    (
        "Latent components and mediators",
        "the question, by averaged scores; not its latent circuits",
        "[Mediators](mediators.qmd)",
    ),
    (
        "Subject-verb agreement, hypernymy, CounterFact",
        "not done",
        "–",
    ),
    (
        "AtP*, RelP, ACDC, edge attribution",
        "not done: none of them is implemented here",
        "–",
    ),
    (
        "Speed at GPT-2 small's shape",
        "measured with random weights; nothing on a GPU",
        "[Performance](performance.qmd)",
    ),
)
REPRODUCED = pl.DataFrame(
    _REPRODUCED, schema=["published or asked for", "here", "where"], orient="row"
)

# The tests that fail when a fault comes back.
GUARDS: dict[str, tuple[str, ...]] = {
    "padding": (
        "tests/attribution/test_invariances.py::test_the_order_and_the_other_prompts_change_nothing",
    ),
    "denominator": ("tests/attribution/test_scores.py::test_no_prompt_can_flip_normalised_scores",),
    "mean for sum": ("tests/attribution/test_parity.py::test_testbed_completeness",),
    "data set": ("tests/studies/test_studies.py::test_frames_hold_the_methods_scores",),
    "position for head": ("tests/attribution/test_parity.py::test_testbed_ap_is_the_hook_loops",),
    "cancelling": ("tests/test_ablation.py::test_activation_differences_do_not_cancel",),
    "spaces": (
        "tests/tasks/test_tasks.py::test_prompts_end_in_a_word_and_labels_have_their_space",
    ),
    "sign lost": ("tests/test_ablation.py::test_two_methods_top_components_divide_in_three",),
    "late binding": (
        "tests/test_ablation.py::test_several_components_are_ablated_together_as_by_hooks",
    ),
    "pooled quantile": ("tests/test_agreement.py::test_every_prompt_has_as_many_top_components",),
    "borrowed task": (
        "tests/studies/test_consequences.py::test_a_set_ranked_on_one_half_is_tested_on_the_other",
    ),
}

_MAP = (
    (
        "HookedTransformer.from_pretrained",
        "analysis.load_model",
        "TransformerLens 4 has only the bridge; testbeds load offline",
    ),
    (
        "Task, TaskDataset",
        "analysis.load_task",
        "prompts are generated, held out, and checked in the model's own vocabulary",
    ),
    (
        "model.to_tokens of a batch",
        "analysis.PromptPairs",
        "prompts stand side by side by length, never padded",
    ),
    (
        "logit_diff_metric",
        "analysis.metrics.logit_diff",
        "takes the logits of the last real token",
    ),
    (
        "greater_than_prob_diff_metric",
        "analysis.metrics.prob_diff",
        "takes the same labels as the logit difference",
    ),
    (
        "integrated_gradients",
        "analysis.integrated_gradients",
        "sums, not means; the rule and the number of steps are arguments; completeness is reported",
    ),
    (
        "activation_patching",
        "analysis.activation_patching",
        "metric units, undivided; resumes a run instead of starting anew",
    ),
    (
        "highlight_components",
        "analysis.ablation.largest",
        "the k largest of prompt-averaged scores, or of each prompt, instead of a pooled quantile",
    ),
    (
        "average_correlation",
        "analysis.agreement.average_correlation",
        "signed, with a standard deviation and an interval over prompts",
    ),
    (
        "measure_overlap",
        "analysis.agreement.measure_overlap",
        "the same index, with an interval",
    ),
    (
        "test_multi_ablated_performance",
        "analysis.ablation.multi_ablated_performance",
        "every component of the set is ablated, on the prompts that it is given",
    ),
    (
        "activation_cache_to_tensor",
        "analysis.mediation.component_effects",
        "every changed position is measured, not the last one alone; nothing is held",
    ),
    (
        "ablate_hook",
        "analysis.mediation.head_effects",
        "patches a component, not a position; tested against hooks",
    ),
    (
        "torch.save, torch.load",
        "analysis.studies.cache.cached_scores",
        "no pickle; keyed by weights, prompts, settings and code",
    ),
    ("plot_attn", "analysis.charts.plot_attn", "one scale centred at zero"),
    (
        "plot_attn_comparison",
        "analysis.charts.plot_attn_comparison",
        "both methods on one scale",
    ),
    ("plot_correlation", "analysis.charts.plot_correlation", "with the line of equality"),
    (
        "plot_correlation_comparison",
        "analysis.charts.plot_correlation_comparison",
        "heads and neurons side by side, with r and its interval",
    ),
    ("plot_bar_chart", "analysis.charts.plot_bar_chart", "with intervals"),
)
FUNCTIONS = pl.DataFrame(_MAP, schema=["in the notebooks", "here", "what changed"], orient="row")


def explained() -> pl.DataFrame:
    """The heads' signed r that its sign changes alone make, beside the reported one.

    If every prompt's |r| is the mean |r| and a share f of them flips, the mean is |r| (1 - 2f) and
    the standard deviation 2 |r| √(f (1 - f)). Adds the columns mean and sd.
    """
    size, share = pl.col("absolute"), pl.col("flips") / 100
    return CORRELATIONS.with_columns(
        mean=size * (1 - 2 * share), sd=2 * size * (share * (1 - share)).sqrt()
    )


def guarded_by(fault: str) -> str:
    """The fault's tests, as a sentence of Markdown."""
    return "Guarded by " + " and ".join(f"`{name}`" for name in GUARDS[fault]) + "."
