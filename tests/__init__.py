"""The tests, one folder for each room of the code, and the folders that they read.

`tests` is a package, imported from the root of the repository, so that tests, forked ranks and benchmarks name its
files in the same way, and two rooms may have files of one name.
"""

from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
DATA = ROOT / "tests" / "data"
GOLDEN = ROOT / "tests" / "golden"
