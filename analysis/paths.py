"""Where the project's data live: beside the package in a clone, inside it once installed."""

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).parent
_CLONE = _PACKAGE.parent
_IN_CLONE = (_CLONE / "pyproject.toml").is_file() and (_CLONE / "data").is_dir()

DATA = (_CLONE if _IN_CLONE else _PACKAGE) / "data"
TASKS = DATA / "tasks"
MODELS = DATA / "models"
BENCHMARKS = DATA / "benchmarks"
REPORT = _CLONE / "report"
CONSTRAINTS = _CLONE / "constraints.txt"
_KEPT = DATA / "results" if _IN_CLONE else Path(platformdirs.user_cache_dir("analysis"))
RESULTS = Path(os.environ.get("ANALYSIS_RESULTS", _KEPT))
