"""Finished units of a long run, kept until the whole run is done."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from analysis.provenance import PROVENANCE, Provenance

Unit = dict[str, Tensor]


class Checkpoints:
    """A folder with a file a unit, each written whole or not at all; no folder keeps nothing.

    A file that cannot be read is computed again; one that cannot be written costs a warning.
    `run` says what the units depend on, so that none is taken for another run's, and `provenance`
    what this model computes here, so that none is taken from one that computes something else.
    """

    def __init__(self, folder: Path | None, run: str, provenance: Provenance | None = None):
        self.folder, self.run, self.provenance = folder, run, provenance

    def keep(self, name: str, compute: Callable[[], Unit]) -> Unit:
        """The unit of that name: read if it was finished before, else computed and written.

        Raises:
            ValueError: where the file is of a run with other arguments, or of a model that
                computed something else.
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
                facts, names = file.metadata() or {}, file.keys()
                unit = {name: file.get_tensor(name) for name in names}
        except (FileNotFoundError, SafetensorError):
            return None
        if facts.get("run") != self.run:
            raise ValueError(
                f"{path} was written by a run with other arguments: delete {path.parent}, or "
                "name another folder for the checkpoints."
            )
        if self.provenance:
            self.provenance.check(facts.get(PROVENANCE), path)
        return unit

    def _write(self, path: Path, unit: Unit) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        kept = {PROVENANCE: self.provenance.text()} if self.provenance else {}
        save_file(unit, partial, {"run": self.run} | kept)
        os.replace(partial, path)
