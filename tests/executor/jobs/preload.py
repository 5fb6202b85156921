"""What the fork server imports once for all ranks. The warnings that it hides are megatron-core's own."""

import logging
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch

    import executor.commands.trainer  # noqa: F401

torch.set_num_threads(1)
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")
