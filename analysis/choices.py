"""What a caller may choose, as types for signatures and as tuples to go through.

`checks.one_of` and `checks.some_of` refuse anything else at the public edge.
"""

from typing import Literal, get_args

Kind = Literal["heads", "neurons"]
Direction = Literal["noising", "denoising"]
Baseline = Literal["source", "zero", "mean"]
Rule = Literal["gauss-legendre", "left", "right", "midpoint", "trapezoid", "clenshaw-curtis"]
Path = Literal["layer-joint", "single", "input"]
Ends = Literal["base", "both"]
Repair = Literal["qk-fix", "grad-drop"]

KINDS: tuple[Kind, ...] = get_args(Kind)
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
RULES: tuple[Rule, ...] = get_args(Rule)
PATHS: tuple[Path, ...] = get_args(Path)
ENDS: tuple[Ends, ...] = get_args(Ends)
REPAIRS: tuple[Repair, ...] = get_args(Repair)
