"""Where the project's data live: beside the package in a clone, inside it once installed."""

import os
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).parent
_CLONE = _PACKAGE.parent
IN_CLONE = (_CLONE / "pyproject.toml").is_file() and (_CLONE / "data").is_dir()

DATA = (_CLONE if IN_CLONE else _PACKAGE) / "data"
TASKS = DATA / "tasks"
MODELS = DATA / "models"
BENCHMARKS = DATA / "benchmarks"
LITERATURE = DATA / "literature"
RECORDS = DATA / "records"
_KEPT = DATA / "results" if IN_CLONE else Path(platformdirs.user_cache_dir("analysis"))
CONSTRAINTS = _CLONE / "constraints.txt"
RESULTS = Path(os.environ.get("ANALYSIS_RESULTS", _KEPT))
