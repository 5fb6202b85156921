"""`python -m executor`. The process ends without the interpreter's own exit, in which torch now and then aborts after
gloo was used."""

import os
import sys

from .commands.cli import main

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
