"""The pytest fixture `plan_of`, which compiles each spec once per session. `planner.testing` says how to get it.

A conftest may import from here before pytest loads the fixture: no assertion needs rewriting (PYTEST_DONT_REWRITE).
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path as FilePath

from ..passes.compile import compile_spec
from ..plan import Plan
from ..plan_file import read_plan_or_spec
from ..spec.spec import Spec

try:
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'planner.testing.plan_of is a fixture of pytest: pip install "mimo-planner[testing]"', name=error.name
    ) from error


class PlanOf:
    """Compiles specs, each of them once.

    Args:
        root: the folder that relative paths start from.
    """

    def __init__(self, root: FilePath) -> None:
        self._root = root
        self._read: dict[tuple[FilePath, bytes], Plan | Spec] = {}
        self._compiled: dict[tuple[Spec, int | None], Plan] = {}

    def __call__(self, source: str | FilePath | Spec, *, world_size: int | None = None) -> Plan:
        """The plan of a spec.

        Plans are immutable, so all tests may share one. A file that has changed is read again.

        Args:
            source: a Spec, or the path of a spec or of a stored plan, relative to pytest's root directory.
            world_size: the number of ranks, which overrides the spec's cluster.

        Raises:
            PlanError: with every fault found, each with its place in the file.
            ValueError: `world_size` was given for a stored plan, whose number of ranks is settled.
        """
        found = source if isinstance(source, Spec) else self._file(self._root / source)
        if isinstance(found, Plan):
            if world_size is not None:
                raise ValueError(f"{source} is a compiled plan: world_size needs its spec")
            return found
        key = (found, world_size)
        if key not in self._compiled:
            self._compiled[key] = compile_spec(found, world_size=world_size)
        return self._compiled[key]

    def _file(self, path: FilePath) -> Plan | Spec:
        try:
            key = (path, sha256(path.read_bytes()).digest())
        except OSError:
            return read_plan_or_spec(path)  # which says what is wrong with it
        if key not in self._read:
            self._read[key] = read_plan_or_spec(path)
        return self._read[key]


@pytest.fixture(scope="session")
def plan_of(pytestconfig: pytest.Config) -> PlanOf:
    """The plan of a spec, given as a path or as a Spec: compiled once per session, and then shared."""
    return PlanOf(pytestconfig.rootpath)
