"""Matrix products on a CPU. PyTorch leaves those in fp32 to MKL, which uses half of what an AMD processor with AVX-512
can do; oneDNN, which PyTorch has too, uses all of it, with as many digits."""

import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch

from training.device import this_device

PROCESSORS = Path("/proc/cpuinfo")  # of Linux
LARGE = 2**18  # weights; where they come from memory oneDNN is ahead from the second row on
WORTH = 2**21  # multiplications; fewer with small weights are done sooner than they are handed over
KERNELS = "64"  # kept, one for each shape: as many as a step takes, where the default is 1,024 of up to 1 MB


@cache
def hasten() -> torch.library.Library | None:
    """Let oneDNN compute this process's fp32 products from now on where MKL holds back; None where it does not.

    What is returned holds the kernels; `_destroy` gives MKL its place back.
    """
    return replace_products() if _held_back() else None


def products() -> str:
    """Who computes them: "oneDNN", or "PyTorch" as it comes."""
    return "oneDNN" if this_device().kind == "cpu" and hasten() else "PyTorch"


def replace_products() -> torch.library.Library:
    """Put oneDNN's kernel in the place of MKL's, forward and backward."""
    for cache_of in ("ONEDNN_PRIMITIVE_CACHE", "LRU_CACHE"):  # oneDNN's, and PyTorch's before it
        os.environ.setdefault(f"{cache_of}_CAPACITY", KERNELS)
    product, no_more = torch.ops.mkldnn._linear_pointwise.default, ("none", [], "")
    mkl_product, mkl_sum = torch.ops.aten.mm.out, torch.ops.aten.addmm.out

    def mm(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if _worth_it(left, right):
            return product(left, right.t(), None, *no_more)
        return mkl_product(left, right, out=left.new_empty(left.shape[0], right.shape[1]))

    def addmm(
        bias: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, beta: Any = 1, alpha: Any = 1
    ) -> torch.Tensor:
        added = bias.shape == right.shape[1:] and bias.dtype is torch.float32 and beta == alpha == 1
        if added and _worth_it(left, right):
            return product(left, right.t(), bias.contiguous(), *no_more)
        out = left.new_empty(left.shape[0], right.shape[1])
        return mkl_sum(bias, left, right, beta=beta, alpha=alpha, out=out)

    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")  # that one is replaced
        library.impl("mm", mm, "CPU")
        library.impl("addmm", addmm, "CPU")
    return library


def _worth_it(left: torch.Tensor, right: torch.Tensor) -> bool:
    (rows, inner), columns = left.shape, right.shape[1]
    weights = inner * columns
    return (
        left.dtype is right.dtype is torch.float32
        and rows > 1
        and (weights >= LARGE or rows * weights >= WORTH)
        and left.stride(1) == 1  # else it is copied first
    )


def _held_back() -> bool:
    """Whether this is such a processor."""
    return (
        torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
        and PROCESSORS.exists()
        and "AuthenticAMD" in PROCESSORS.read_text()
    )
