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
_PROCESS = Path("/proc/self")


def describe(*packages: str) -> dict[str, str | int]:
    """Processor, the threads that torch uses of it, memory, and versions."""
    processor = _field(Path("/proc/cpuinfo"), "model name") or platform.processor()
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor or platform.machine(),
        "threads": torch.get_num_threads(),
        "memory GiB": round(pages / 2**30),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "date": time.strftime("%Y-%m-%d"),
    }


def matmul_rate() -> float:
    """Operations per second of one float32 matrix product of an MLP's shape, the best of three."""
    left, right = torch.randn(512, 768), torch.randn(768, 3072)
    torch.mm(left, right)
    seconds = min(timed(lambda: torch.mm(left, right))[1] for _ in range(3))
    return 2 * 512 * 768 * 3072 / seconds


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What a piece of work returns, and its seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def peak_memory(work: Callable[[], object]) -> dict[str, int]:
    """Bytes taken above what was resident, and the process's peak; off Linux both are the peak."""
    earlier, resident = _resident("VmHWM"), 0
    if (_PROCESS / "clear_refs").exists():
        (_PROCESS / "clear_refs").write_text("5")
        resident = _resident("VmRSS")
    work()
    peak = _resident("VmHWM")
    return {"above resident": peak - resident, "process": max(earlier, peak)}


def _resident(name: str) -> int:
    """Bytes by a line of /proc/self/status; on other systems the peak."""
    if kilobytes := _field(_PROCESS / "status", name):
        return int(kilobytes.split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _field(file: Path, name: str) -> str:
    """The first value of this name in a file of `name: value` lines; nothing where it has none."""
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
