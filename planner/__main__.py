"""The command `mimo`, and `python -m planner`: as little as possible, so that Ctrl-C ends it without a traceback.

Most of a command's life is imports. SIGTERM ends it as Ctrl-C does, so that no half-written file is left behind.
"""

from __future__ import annotations

import signal
import sys

_STOPPED, _TERMINATED = 130, 143


def main() -> int:
    """Run one command and return its exit code."""
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
        from .cli import main as run  # noqa: PLC0415

        return run()
    except KeyboardInterrupt:
        return _STOPPED


if __name__ == "__main__":
    sys.exit(main())
