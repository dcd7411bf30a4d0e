"""Finished units of a long run, kept until the whole run is done."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

Unit = dict[str, Tensor]


class Checkpoints:
    """A folder with a file a unit, each written whole or not at all; no folder keeps nothing.

    A file that cannot be read is computed again; one that cannot be written costs a warning.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder

    def keep(self, name: str, compute: Callable[[], Unit]) -> Unit:
        """The unit of that name: read if it was finished before, else computed and written."""
        if self.folder is None:
            return compute()
        path = self.folder / f"{name}.safetensors"
        try:
            return load_file(path)
        except (FileNotFoundError, SafetensorError):
            unit = compute()
            try:
                self._write(path, unit)
            except OSError as error:
                warnings.warn(f"{path} cannot be written and is not kept: {error}", stacklevel=2)
            return unit

    @staticmethod
    def _write(path: Path, unit: Unit) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file(unit, partial)
        os.replace(partial, path)
