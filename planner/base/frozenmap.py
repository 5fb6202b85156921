"""A mapping that can live inside a frozen class: read-only, ordered, hashable, backed by a tuple.

Iteration keeps the order in which the mapping was built. Two FrozenMaps are equal if their items are equal and in the
same order, because the order of a spec's modules has a meaning; compared with a `dict`, the order does not count.
Lookups are linear up to a handful of items, which is what plans have; the tuple makes the mapping hashable and safe to
share. A larger mapping makes an index when it is first asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

K = TypeVar("K")
V_co = TypeVar("V_co", covariant=True)
_FEW = 16  # items that are looked through


class FrozenMap(Mapping[K, V_co]):
    """A read-only mapping over a tuple of pairs. Raises KeyError for a key that it does not have."""

    __slots__ = ("_index", "_items")
    _index: dict[K, V_co]
    _items: tuple[tuple[K, V_co], ...]

    def __init__(self, items: Mapping[K, V_co] | Iterable[tuple[K, V_co]] = ()) -> None:
        if type(items) is not dict:  # views of ranks build many of these, from dicts
            items = items if isinstance(items, Mapping) else dict(items)
        object.__setattr__(self, "_items", tuple(items.items()))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"FrozenMap is read-only: cannot set {name!r}")

    def __getitem__(self, key: K) -> V_co:
        if len(self._items) > _FEW:
            return self._indexed()[key]
        for known, value in self._items:
            if known == key:
                return value
        raise KeyError(key)

    def _indexed(self) -> dict[K, V_co]:
        try:
            return self._index
        except AttributeError:
            object.__setattr__(self, "_index", dict(self._items))
            return self._index

    def __iter__(self) -> Iterator[K]:
        return (key for key, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FrozenMap):
            return self._items == other._items
        return super().__eq__(other)

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return f"FrozenMap({dict(self._items)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return (FrozenMap, (self._items,))
