"""Word lists and templates: data, read once."""

import json
from functools import cache
from typing import Any

from analysis import paths


@cache
def read_words(name: str) -> dict[str, Any]:
    """The contents of `data/tasks/<name>.json`."""
    return json.loads((paths.TASKS / f"{name}.json").read_text(encoding="utf-8"))
