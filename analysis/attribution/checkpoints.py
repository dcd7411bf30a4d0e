"""Finished units of a long run, kept until the whole run is done."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Unit = dict[str, Tensor]


class Checkpoints:
    """A folder with a file a unit, each written whole or not at all; no folder keeps nothing.

    A file that cannot be read is computed again; one that cannot be written costs a warning.
    `run` says what the units depend on, so that none is taken for another run's.
    """

    def __init__(self, folder: Path | None, run: str):
        self.folder, self.run = folder, run

    def keep(self, name: str, compute: Callable[[], Unit]) -> Unit:
        """The unit of that name: read if it was finished before, else computed and written.

        Raises:
            ValueError: where the file is of a run with other arguments.
        """
        if self.folder is None:
            return compute()
        path = self.folder / f"{name}.safetensors"
        found = self._read(path)
        if found is not None:
            return found
        unit = compute()
        try:
            self._write(path, unit)
        except (OSError, SafetensorError) as error:
            warnings.warn(f"{path} cannot be written and is not kept: {error}", stacklevel=2)
        return unit

    def _read(self, path: Path) -> Unit | None:
        try:
            with safe_open(path, "pt") as file:
                run, names = file.metadata(), file.keys()
                unit = {name: file.get_tensor(name) for name in names}
        except (FileNotFoundError, SafetensorError):
            return None
        if run != {"run": self.run}:
            raise ValueError(
                f"{path} was written by a run with other arguments: delete {path.parent}, or "
                "name another folder for the checkpoints."
            )
        return unit

    def _write(self, path: Path, unit: Unit) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        save_file(unit, partial, {"run": self.run})
        os.replace(partial, path)
