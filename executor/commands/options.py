"""Options of the executor's commands. A mistake is raised, not printed, since one of several ranks is to speak."""

from __future__ import annotations

import argparse
from typing import NoReturn

from planner.commands.options import MisuseError


class Parser(argparse.ArgumentParser):
    """Raises MisuseError with the usage, instead of printing it and ending the process."""

    def error(self, message: str) -> NoReturn:
        raise MisuseError(f"{message}\n{self.format_usage().rstrip()}")
