"""`frozen`: attrs classes as this package has them, which start fast.

The classes are slotted, their objects cannot be changed, and they are compared, hashed and printed by their fields. The
difference from `attrs.frozen` is when the work is done. attrs writes and compiles the methods of a class when the class
is made. That was a third of the time of `mimo plan`, which makes ninety classes and few objects of most. Here a class
starts with methods that all classes share, and attrs is asked for its own when they pay:

- `__eq__`, `__hash__`, `__repr__` and the order look up the fields of a class when its objects are first compared.
- `__init__` sets the fields one by one for the first objects of a class; after that it is the one that attrs compiles.
- `attrs.fields`, `attrs.evolve` and the signature are answered by attrs, for a class of the same fields.

A class is made by attrs at once if it uses more than annotated fields with plain defaults (`attrs.field`, hooks, base
classes of attrs), or if one of its methods needs the class itself (`super()`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from operator import attrgetter, ge, gt, le, lt
from types import FunctionType
from typing import TYPE_CHECKING, Any

import attrs

__all__ = ["frozen"]

_FEW = 200  # objects of a class: each takes 3.6 us longer by the shared __init__, and attrs compiles one in 0.76 ms

if TYPE_CHECKING:
    from attrs import frozen  # the name by which type checkers know such classes
else:

    def frozen(cls: type | None = None, *, kw_only: bool = False, order: bool = False) -> Any:
        """Make a class as `attrs.frozen` does. A method that the class defines itself stays as it is."""
        if cls is None:
            return lambda cls: frozen(cls, kw_only=kw_only, order=order)
        for name, method in (_METHODS | _ORDER if order else _METHODS).items():
            if cls.__dict__.get(name) is None:  # a class that defines __eq__ alone has None as its __hash__
                setattr(cls, name, method)
        if _needs_attrs(cls):
            return attrs.frozen(cls, kw_only=kw_only, eq=False, repr=False)
        return _made_here(cls, kw_only)


# ---- classes that are made here


def _needs_attrs(cls: type) -> bool:
    """Whether a class uses what only attrs can do for it."""
    body = cls.__dict__
    if any(hasattr(base, "__attrs_attrs__") for base in cls.__mro__[1:]) or "__init__" in body:
        return True
    if any(name.startswith("__attrs_") for name in body) or "__getattr__" in body:
        return True
    values = [body[name] for name in body.get("__annotations__", ()) if name in body]
    if any(type(value).__module__.startswith("attr.") for value in values):
        return True
    return any("__class__" in function.__code__.co_freevars for function in _functions(body))


def _functions(body: Any) -> list[FunctionType]:
    found = []
    for value in body.values():
        inner = value.func if isinstance(value, cached_property) else value
        inner = inner.fget if isinstance(inner, property) else getattr(inner, "__func__", inner)
        if isinstance(inner, FunctionType):
            found.append(inner)
    return found


def _made_here(cls: type, kw_only: bool) -> type:
    """The slotted class, with the methods that all such classes share."""
    body = dict(cls.__dict__)
    names = tuple(name for name, of in body.get("__annotations__", {}).items() if not str(of).startswith("ClassVar"))
    defaults = {name: body.pop(name) for name in names if name in body}
    for name in ("__dict__", "__weakref__"):
        body.pop(name, None)
    caches = any(isinstance(value, cached_property) for value in body.values())
    body |= {
        "__slots__": (*names, "__weakref__", *(("__dict__",) if caches else ())),  # cached properties live in a dict
        "__match_args__": () if kw_only else names,
        "__init__": _init,
        "__setattr__": _refuse,
        "__delattr__": _refuse,
        "__getstate__": _state,
        "__setstate__": _set_state,
        "__attrs_attrs__": _Attributes(),
        "__signature__": _Signature(),
        "_fields_": names,
        "_defaults_": defaults,
        "_kw_only_": kw_only,
        "_num_made_": 0,
        "_annotated_": {name: body["__annotations__"][name] for name in names},
    }
    made = type(cls)(cls.__name__, cls.__bases__, body)
    made.__qualname__ = cls.__qualname__
    return made


@cache
def _by_attrs(cls: Any) -> Any:
    """The same fields in a class that attrs has made."""
    body = {"__annotations__": cls._annotated_, **cls._defaults_, "__module__": cls.__module__}
    return attrs.frozen(type(cls.__name__, (), body), kw_only=cls._kw_only_, eq=False, repr=False)


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    cls = self.__class__
    names, values = cls._fields_, kwargs
    if args:
        values = dict(zip(names, args, strict=False)) | kwargs
    missing = [name for name in names if name not in values]
    is_plain = len(values) + len(missing) == len(names) and len(args) + len(kwargs) == len(values)
    if cls._num_made_ >= _FEW or not is_plain or (args and cls._kw_only_):
        cls.__init__ = _by_attrs(cls).__init__
        cls.__init__(self, *args, **kwargs)  # which knows what to say of arguments that do not fit
        return
    cls._num_made_ += 1
    put = object.__setattr__
    for name, value in values.items():
        put(self, name, value)
    for name in missing:
        if name not in cls._defaults_:
            _by_attrs(cls)(*args, **kwargs)  # raises
        put(self, name, cls._defaults_[name])


class _Attributes:
    """`__attrs_attrs__`, which attrs and its users read: asked of attrs when it is first read."""

    def __get__(self, _: Any, cls: Any) -> Any:
        return _by_attrs(cls).__attrs_attrs__


class _Signature:
    """`__signature__`, which documentation reads."""

    def __get__(self, _: Any, cls: Any) -> Any:
        import inspect  # noqa: PLC0415  only documentation asks

        return inspect.signature(_by_attrs(cls))


def _refuse(self: Any, name: str, value: Any = None) -> None:  # noqa: ARG001  the signature of Python's own
    raise attrs.exceptions.FrozenInstanceError


def _state(self: Any) -> dict[str, Any]:
    return {name: getattr(self, name) for name in self._fields_}


def _set_state(self: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        object.__setattr__(self, name, value)


# ---- methods that every class shares


def _equal(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    compared = _compared(self.__class__)
    return compared(self) == compared(other)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        if other.__class__ is not self.__class__:
            return NotImplemented
        compared = _compared(self.__class__)
        return compare(compared(self), compared(other))

    return method


_ORDER = {f"__{compare.__name__}__": _ordered(compare) for compare in (lt, le, gt, ge)}


def _hash(self: Any) -> int:
    return hash((self.__class__, _compared(self.__class__)(self)))


def _text(self: Any) -> str:
    cls = self.__class__
    shown = (f"{field.name}={getattr(self, field.name)!r}" for field in attrs.fields(cls) if field.repr)
    return f"{cls.__qualname__.rpartition('>.')[2]}({', '.join(shown)})"


@cache
def _compared(cls: Any) -> Callable[[Any], Any]:
    """What the objects of a class are compared by: the values of its fields."""
    names = cls.__dict__.get("_fields_") or [field.name for field in attrs.fields(cls) if field.eq]
    return attrgetter(*names) if names else lambda _: ()


_METHODS = {"__eq__": _equal, "__hash__": _hash, "__repr__": _text}
