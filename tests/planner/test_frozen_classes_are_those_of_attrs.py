"""Law: `planner.base.frozen` makes classes that behave as those of `attrs.frozen`, its first object and its last."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import attrs
import pytest

from planner.base import frozen as module
from planner.base.frozen import frozen


def _by_name(make: Any) -> dict[str, Any]:
    @make
    class Plain:
        x: int
        y: str = "why"

        def twice(self) -> int:
            return 2 * self.x

        @property
        def text(self) -> str:
            return f"{self.x}{self.y}"

    @make(kw_only=True)
    class Named:
        limit: ClassVar[int] = 7
        x: int = 1
        y: tuple[int, ...] = ()

    @make
    class Cached:
        x: int

        @cached_property
        def squares(self) -> list[int]:
            return [i * i for i in range(self.x)]

    @make
    class Listed(Sequence[int]):
        sizes: tuple[int, ...]

        def __len__(self) -> int:
            return len(self.sizes)

        def __getitem__(self, index: Any) -> Any:
            return self.sizes[index]

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Sequence) and tuple(self) == tuple(other)

        def __hash__(self) -> int:
            return hash(self.sizes)

    @make
    class Empty:
        pass

    @make
    class Hooked:
        x: int = attrs.field(default=3, converter=int)
        unseen: int = attrs.field(default=0, eq=False, repr=False)

    return {cls.__name__: cls for cls in (Plain, Named, Cached, Listed, Empty, Hooked)}


OURS, THEIRS = _by_name(frozen), _by_name(attrs.frozen)
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("Plain", (1,), {}),
    ("Plain", (1, "z"), {}),
    ("Plain", (), {"y": "b", "x": 4}),
    ("Plain", (2,), {"y": "c"}),
    ("Plain", (), {}),
    ("Plain", (1, "z", 3), {}),
    ("Plain", (1,), {"x": 2}),
    ("Plain", (1,), {"z": 2}),
    ("Plain", (), {"y": 1, "z": 2}),
    ("Named", (), {}),
    ("Named", (), {"y": (1, 2)}),
    ("Named", (5,), {}),
    ("Named", (), {"limit": 2}),
    ("Cached", (4,), {}),
    ("Listed", ((1, 2, 3),), {}),
    ("Empty", (), {}),
    ("Empty", (1,), {}),
    ("Hooked", ("5",), {}),
    ("Hooked", (), {"unseen": 9}),
]


def called(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The object, or the words of the TypeError."""
    try:
        return cls(*args, **kwargs)
    except TypeError as error:
        return str(error).rpartition(".")[2]


def answers(one: Any) -> dict[str, Any]:
    """All that can be asked of an object, for which two classes of one name must give the same."""
    fields = attrs.fields(type(one))
    return {
        "repr": repr(one).rpartition(">.")[2],
        "fields": [(field.name, field.default, field.kw_only, field.eq, field.repr) for field in fields],
        "values": attrs.asdict(one, recurse=False),
        "match": type(one).__match_args__,
        "signature": str(inspect.signature(type(one))).replace(" ", ""),
        "has dict of values": any(name in getattr(one, "__dict__", {}) for name in attrs.asdict(one)),
    }


@pytest.mark.parametrize("warm", [False, True], ids=["the first objects", "later objects"])
@pytest.mark.parametrize(("name", "args", "kwargs"), CALLS)
def test_calls_and_answers_are_those_of_attrs(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], warm: bool
) -> None:
    ours, theirs = _by_name(frozen)[name], THEIRS[name]
    good = next((a, k) for n, a, k in CALLS if n == name)
    for _ in range(module._FEW + 1 if warm else 0):
        ours(*good[0], **good[1])
    one, other = called(ours, args, kwargs), called(theirs, args, kwargs)
    if isinstance(other, str):
        assert one == other
        return
    assert answers(one) == answers(other)
    again = called(ours, args, kwargs)
    assert (one == again, hash(one) == hash(again)) == (True, True)
    assert one != other or name == "Listed"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        one.x = 3
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del one.x
    assert copy.deepcopy(one) == attrs.evolve(one) == one


def test_unequal_values_differ() -> None:
    plain = OURS["Plain"]
    assert plain(1) != plain(2)
    assert plain(1) != plain(1, "z")
    assert plain(1) != OURS["Cached"](1)
    assert attrs.evolve(plain(1), x=2) == plain(2)
    assert OURS["Hooked"](unseen=1) == OURS["Hooked"](unseen=2)


def test_what_is_cached_is_made_once_and_never_compared_or_pickled() -> None:
    one, other = Counted(3), Counted(3)
    assert one.squares is one.squares
    assert one == other
    assert hash(one) == hash(other)
    assert "squares" not in pickle.loads(pickle.dumps(one)).__dict__  # noqa: S301  its own
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301


def test_order_is_that_of_the_fields() -> None:
    found = sorted([Placed("b", 1), Placed("a", 2), Placed("a", 1)])
    assert found == [Placed("a", 1), Placed("a", 2), Placed("b", 1)]
    assert Placed("a", 1) <= Placed("a", 1) < Placed("a", 2)
    assert Placed("b", 0) > Placed("a", 9)
    with pytest.raises(TypeError):
        _ = Placed("a", 1) < Counted(1)  # type: ignore[operator]  that is the test


def test_methods_that_need_the_class_itself_work() -> None:
    assert Child(4).doubled() == 8


@frozen
class Counted:
    x: int

    @cached_property
    def squares(self) -> list[int]:
        return [i * i for i in range(self.x)]


@frozen(order=True)
class Placed:
    name: str
    index: int


class Parent:
    __slots__ = ()

    def doubled(self) -> int:
        return 2 * self.x  # type: ignore[attr-defined,no-any-return]  the child has it


@frozen
class Child(Parent):
    x: int

    def doubled(self) -> int:
        return super().doubled()


@pytest.mark.parametrize("make", [frozen, attrs.frozen])
def test_a_subclass_is_compared_by_its_own_fields_too(make: Any) -> None:
    @make
    class Inner:
        x: int

    @make
    class Outer(Inner):
        y: int

    assert Outer(1, 2) == Outer(1, 2)
    assert hash(Outer(1, 2)) == hash(Outer(1, 2))
    assert Outer(1, 2) != Outer(1, 3)
