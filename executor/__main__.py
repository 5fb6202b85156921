"""`python -m executor`. The guard starts first, before seconds of imports: an early Ctrl-C is one line, too.

The process ends without the interpreter's own exit, in which torch now and then aborts after gloo was used.
"""

import os
import sys
from typing import NoReturn

from .watch.guard import Guard


def run() -> NoReturn:
    """Run the command line as one rank, and end the process."""
    guard = Guard()
    guard.start()
    # Of a lost store torch prints C++ stacks, on every rank. What is wrong is said once, by us.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from .commands.cli import main  # noqa: PLC0415  after the guard

    try:
        code = main(guard=guard)
    except SystemExit as end:  # --help and --version
        code = end.code if isinstance(end.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # closed from the start
                stream.flush()
        except (OSError, ValueError):  # full, or closed meanwhile
            code = code or 1
    os._exit(code)


if __name__ == "__main__":
    run()
