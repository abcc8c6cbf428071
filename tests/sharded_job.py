"""The last word of a launcher: a training job whose model FSDP shards on a CPU, as accelerate does on GPUs only."""

import os
import sys

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from training import job


def _as_on_gpus(self: PartialState, *_: object) -> tuple[str, DistributedType]:
    if not torch.distributed.is_initialized():  # by the stage before
        torch.distributed.init_process_group("gloo")
    return "gloo", DistributedType.MULTI_GPU


if __name__ == "__main__":
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = _as_on_gpus
    sys.exit(job.main(sys.argv[-1:]))
