"""`python -m executor`: leaves without torch's interpreter exit, which aborts now and then after gloo."""

import os
import sys

from .commands.cli import main

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
