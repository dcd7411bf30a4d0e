"""The machine: what it is, how fast it multiplies matrices, and the memory that work takes."""

import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def hardware() -> dict[str, str | int]:
    """Processor, the threads that torch uses of it, and memory."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
    }


def describe() -> dict[str, str | int]:
    """The hardware and the versions that a measurement depends on."""
    return hardware() | {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformer_lens": version("transformer_lens"),
        "captum": version("captum"),
        "date": time.strftime("%Y-%m-%d"),
    }


def matmul_rate(rows: int = 512, width: int = 768, columns: int = 3072) -> float:
    """Operations a second of one float32 matrix product of an MLP's shape, the best of three."""
    left, right = torch.randn(rows, width), torch.randn(width, columns)
    torch.mm(left, right)
    seconds = min(timed(lambda: torch.mm(left, right))[1] for _ in range(3))
    return 2 * rows * width * columns / seconds


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What a piece of work returns, and its seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def peak_memory(work: Callable[[], object]) -> dict[str, int]:
    """Bytes that a piece of work takes above what was resident, and the process's peak.

    Only Linux can forget an earlier peak; elsewhere, or where it may not, an earlier and higher
    one hides this one's, and both numbers are the process's.
    """
    earlier = _peak()
    forgotten = _forget_peak()
    before = _status("VmRSS") if forgotten else 0
    work()
    return {"above resident": _peak() - before, "process": max(earlier, _peak())}


def _peak() -> int:
    if _STATUS.exists():
        return _status("VmHWM")
    kilobytes = sys.platform != "darwin"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if kilobytes else 1)


def _forget_peak() -> bool:
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _status(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
