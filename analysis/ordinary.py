"""PyTorch's modes and defaults as they are where nobody has set them.

A caller may have set others for work of its own: inference mode, autocast, float64, another device.
What the library makes is the same under all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def ordinary() -> Iterator[None]:
    """Tensors that can be differentiated, of float32 on the CPU where nothing else is said."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.device("cpu") if device.type != "cpu" else nullcontext(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False) if torch.cuda.is_available() else nullcontext(),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)
