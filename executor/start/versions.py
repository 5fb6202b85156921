"""The versions that a run depends on: what is installed, and which of them are known here.

Read from the packages' metadata, before anything of theirs is imported: an unknown version often ends in an import
error, which says nothing of versions.
"""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

import attrs

from planner.base.version import package_version
from planner.limits.target import KNOWN_VERSION

from ..errors import UnsupportedError

OLDEST_TORCH, NEWEST_TORCH = (2, 9), (2, 15)
_DIGITS = 12  # of the source's hash


@attrs.frozen
class Versions:
    """The installed versions that all ranks must have in common."""

    torch: str
    megatron_core: str

    @classmethod
    def installed(cls) -> Versions:
        """What the metadata of the installed packages says. Imports neither."""
        return cls(version("torch"), version("megatron-core"))


def installed() -> dict[str, str]:
    """Everything installed that all ranks must have in common, as names and values."""
    found = Versions.installed()
    return {
        "torch": found.torch,
        "megatron-core": found.megatron_core,
        "Python": platform.python_version(),
        "mimo-planner": package_version(),
        "source of mimo-planner": source_hash(),
    }


def source_hash() -> str:
    """A hash of this project's own files: a version does not tell a checkout from the one of yesterday."""
    hashed = hashlib.sha256()
    root = Path(__file__).parents[2]
    for file in sorted(file for package in ("executor", "planner") for file in (root / package).rglob("*.py")):
        hashed.update(f"{file.relative_to(root)}\0".encode())
        hashed.update(file.read_bytes())
    return hashed.hexdigest()[:_DIGITS]


def check_versions(found: Versions | None = None) -> None:
    """Check that this package was seen to run on the versions; docs/training.md has the table.

    Args:
        found: the versions to check instead of the installed ones.

    Raises:
        UnsupportedError: one is outside what is known here; the message names it, and what to install.
    """
    found = found or Versions.installed()
    if not OLDEST_TORCH <= _series(found.torch) <= NEWEST_TORCH:
        oldest, newest = _text(OLDEST_TORCH), _text(NEWEST_TORCH)
        raise UnsupportedError(
            f"torch {found.torch} is not known here; this executor runs on {oldest} to {newest}: "
            f"pip install 'torch>={oldest},<{_text((NEWEST_TORCH[0], NEWEST_TORCH[1] + 1))}'"
        )
    known = _series(KNOWN_VERSION)
    if _series(found.megatron_core) != known:
        raise UnsupportedError(
            f"megatron-core {found.megatron_core} is not known here; this executor was checked against "
            f"{KNOWN_VERSION}: pip install 'megatron-core>={KNOWN_VERSION},<{_text((known[0], known[1] + 1))}'"
        )


def _series(text: str) -> tuple[int, int]:
    """The first two numbers of a version; (0, 0) if it has none. A vendor's suffix (2.11.0a0+nv26.2) says nothing."""
    numbers = text.split(".")[:2]
    if len(numbers) < 2 or not all(number.isdecimal() for number in numbers):
        return 0, 0
    return int(numbers[0]), int(numbers[1])


def _text(series: tuple[int, int]) -> str:
    return ".".join(map(str, series))
