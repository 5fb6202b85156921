"""A worker that meets the others, agrees with them and ends; one of them kills itself once. Run under two torchruns.

    python -m torch.distributed.run ... -m tests.executor.jobs.restarting before|during|after MARK

MARK is a file that the victim leaves when it dies, so that it dies in the first attempt only.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch._C._distributed_c10d import PrefixStore

import executor.start.meet
from executor.errors import ExecutorError
from executor.start import context
from executor.start.agree import agree

TIMEOUT = timedelta(seconds=40)


def main(when: str, mark: Path) -> int:
    """Meet and agree. The victim is the last rank: it is of the second agent."""
    is_victim = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1 and not mark.exists()

    def die() -> None:
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    if is_victim and when == "before":
        die()
    if is_victim and when == "during":
        real = executor.start.meet.came

        def came(store: Any, keys: list[str], timeout: timedelta) -> bool:
            if keys and keys[0].startswith("welcome"):
                die()  # it has answered, and is not welcomed yet
            return real(store, keys, timeout)

        executor.start.meet.came = came
    try:
        found = context.connect(TIMEOUT)
        if is_victim and when == "after":
            die()
        world = found.world_size
        agree(PrefixStore("agree", found.store), found.rank, world, world, {"command": "test"}, TIMEOUT)
    except (ExecutorError, RuntimeError) as error:
        print(f"rank {os.environ['RANK']}: {error}", file=sys.stderr)  # noqa: T201  it is the program
        return 1
    counts = os.environ["TORCHELASTIC_RESTART_COUNT"]
    print(f"rank {found.rank} met in {found.run}, restarted {counts} times", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1], Path(sys.argv[2]))
    sys.stdout.flush()
    os._exit(code)
