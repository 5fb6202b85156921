"""The version of the package. pyproject.toml says it, once; an installed package carries it as metadata."""

from __future__ import annotations

import os

_PROJECT = "mimo-planner"
_CHECKOUT = os.path.abspath(os.path.join(__file__, *3 * [os.pardir], "pyproject.toml"))


def package_version() -> str:
    """The version of this package, whether it is installed or run from a checkout."""
    if os.path.isfile(_CHECKOUT):
        import tomllib  # noqa: PLC0415  only --version needs it

        with open(_CHECKOUT, "rb") as stream:
            project = tomllib.load(stream).get("project", {})
        if project.get("name") == _PROJECT:  # beside an installed package the file would be someone else's
            return str(project["version"])
    from importlib.metadata import version  # noqa: PLC0415

    return version(_PROJECT)
