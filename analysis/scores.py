"""What every method returns."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from analysis.choices import Baseline, Direction, Kind


@dataclass(frozen=True)
class Scores:
    """One score per prompt and component, in the metric's own units, float32 on the CPU.

    A score is a sum over positions and dimensions. `normalised` divides by the data set's mean
    total effect. A gap is, for each prompt and layer, the sum of the layer's scores minus the
    effect of patching the whole layer: 0 for exact layer-joint IG (completeness), and for AP the
    interaction within the layer. What was not asked for or not measured is NaN, and so is its
    normalised score. Where a baseline leaves prompts out, `prompts` holds the indices of those that
    remain; otherwise it is every index in order.

    Examples:
        >>> from analysis import activation_patching, load_model, load_task
        >>> model = load_model("testbed")
        >>> pairs = load_task("ioi", model, n=4)
        >>> ap = activation_patching(model, pairs, direction="denoising", kinds=("heads",))
        >>> ap.method, ap.task, ap.direction, ap.baseline
        ('AP', 'ioi', 'denoising', 'source')
        >>> ap.heads.shape, ap.neurons.shape, ap.total.shape
        (torch.Size([4, 4, 8]), torch.Size([4, 4, 0]), torch.Size([4]))
        >>> strongest = ap.normalised("heads").mean(dim=0).max()
        >>> print(f"One head restores {strongest:.0%} of {ap.total.mean():.1f} logits.")
        One head restores 39% of 10.1 logits.
    """

    method: str
    task: str
    direction: Direction
    baseline: Baseline
    heads: Float[Tensor, "prompt layer head"]
    neurons: Float[Tensor, "prompt layer neuron"]
    base: Float[Tensor, " prompt"]
    source: Float[Tensor, " prompt"]
    prompts: Int[Tensor, " prompt"]
    heads_gap: Float[Tensor, "prompt layer"]
    neurons_gap: Float[Tensor, "prompt layer"]
    left_out: int = 0

    @property
    def total(self) -> Float[Tensor, " prompt"]:
        """The total effect, m(source) - m(base)."""
        return self.source - self.base

    def of(self, kind: Kind) -> Float[Tensor, "prompt layer component"]:
        """The scores of `heads` or of `neurons`."""
        return {"heads": self.heads, "neurons": self.neurons}[kind]

    def gaps(self, kind: Kind) -> Float[Tensor, "prompt layer"]:
        """`heads_gap` or `neurons_gap`."""
        return {"heads": self.heads_gap, "neurons": self.neurons_gap}[kind]

    def normalised(self, kind: Kind) -> Float[Tensor, "prompt layer component"]:
        """Scores divided by the data set's mean total effect, which no single prompt can flip."""
        return self.of(kind) / self.total.mean()
