"""`frozen`: attrs classes as this package has them, which start fast.

The classes are slotted, their objects cannot be changed, and they are compared, hashed and printed by their fields.
attrs would write and compile those three methods anew for each class when the class is made: a sixth of the time of
`mimo plan`, which compares few objects and prints none. Here all classes share three functions, which look up the
fields of a class when one of its objects is first compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import attrs

__all__ = ["frozen"]

if TYPE_CHECKING:
    from attrs import frozen  # the name by which type checkers know such classes
else:

    def frozen(cls: type | None = None, *, kw_only: bool = False) -> Any:
        """Make a class as `attrs.frozen` does. A method that the class defines itself stays as it is."""
        if cls is None:
            return lambda cls: frozen(cls, kw_only=kw_only)
        for name, method in (("__eq__", _equal), ("__hash__", _hash), ("__repr__", _text)):
            if cls.__dict__.get(name) is None:  # a class that defines __eq__ alone has None as its __hash__
                setattr(cls, name, method)
        return attrs.frozen(cls, kw_only=kw_only, eq=False, repr=False)


def _equal(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    compared = _compared(self.__class__)
    return compared(self) == compared(other)


def _hash(self: Any) -> int:
    return hash((self.__class__, _compared(self.__class__)(self)))


def _text(self: Any) -> str:
    cls = self.__class__
    shown = (f"{field.name}={getattr(self, field.name)!r}" for field in attrs.fields(cls) if field.repr)
    return f"{cls.__qualname__.rpartition('>.')[2]}({', '.join(shown)})"


@cache
def _compared(cls: Any) -> Callable[[Any], Any]:
    """What the objects of a class are compared by: the values of its fields."""
    names = [field.name for field in attrs.fields(cls) if field.eq]
    return attrgetter(*names) if names else lambda _: ()
