"""What the tests' own checker finds, by functions and classes decorated as the import hook decorates them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import jaxtyping
import pytest
import torch
from jaxtyping import Float, Int, TypeCheckError
from torch import Tensor

from tests.conftest import IS_SHAPE_CHECKED
from tests.shape_checks import checked

pytestmark = pytest.mark.skipif(not IS_SHAPE_CHECKED, reason="this session runs without shape checks")


def hooked(target):
    return jaxtyping.jaxtyped(typechecker=checked)(target)


@hooked
def product(x: Float[Tensor, "B L"], y: Float[Tensor, "L V"] | None = None, *, flip: bool = False) -> Tensor:
    return x if y is None else x @ y


@hooked
def scores(x: Float[Tensor, "B L"], width: int) -> Float[Tensor, "B L"]:
    return torch.zeros(x.shape[0], width)


@hooked
def broadcast(*parts: Int[Tensor, "*#S"]) -> Int[Tensor, "*S"]:
    return torch.broadcast_tensors(*parts)[0][..., :2]


@hooked
def rows(x: Float[Tensor, "B L"], count: int) -> Iterator[Tensor]:
    yield from x[:count]


@hooked
def draw(number: int, axes: "OnlyForTypeCheckers | None" = None) -> "int":
    return number if axes is None else axes


@hooked
def double(number: int) -> int:
    return 2 * number if number < 10 else "many"


@hooked
def nested(parts: Sequence[Float[Tensor, " L"]]) -> int:
    return len(parts)


@hooked
@dataclass(frozen=True, slots=True)
class Pair:
    left: Float[Tensor, " L"]
    right: Float[Tensor, " L"]
    name: str = "pair"

    @classmethod
    @hooked
    def of(cls, one: Float[Tensor, " L"]) -> Self:
        return cls(one, one)

    @hooked
    def sum(self, other: "Pair") -> Float[Tensor, " L"]:
        return self.left + other.right


@hooked
@dataclass(frozen=True)
class Named(Pair):
    number: int = 0


X, Y = torch.zeros(2, 3), torch.zeros(3, 4)


def test_what_is_right_passes():
    assert product(X, Y).shape == (2, 4)
    assert product(X, flip=True) is X
    assert scores(X, 3).shape == (2, 3)
    assert double(2) == 4
    assert draw(1, 2) == 2
    assert len(list(rows(X, 2))) == 2
    assert Pair.of(torch.ones(3)).sum(Pair(torch.ones(3), torch.ones(3))).tolist() == [2, 2, 2]
    assert Named(torch.ones(2), torch.ones(2)).number == 0
    assert broadcast(torch.ones(2, 1, dtype=torch.long), torch.ones(1, 2, dtype=torch.long)).shape == (2, 2)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: product(X, torch.zeros(2, 4)), id="one axis, two sizes"),
        pytest.param(lambda: product(X[0]), id="rank"),
        pytest.param(lambda: product(X.long()), id="dtype"),
        pytest.param(lambda: product(X, flip="yes"), id="keyword"),
        pytest.param(lambda: scores(X, 4), id="an axis of the result has another size than the argument's"),
        pytest.param(lambda: broadcast(torch.ones(2, 3, dtype=torch.long)), id="several axes"),
        pytest.param(lambda: rows(X[0], 1), id="a generator's arguments, before its first value"),
        pytest.param(lambda: double("two"), id="argument without a shape"),
        pytest.param(lambda: double(10), id="result without a shape"),
        pytest.param(lambda: draw(1, "x"), id="a type in quotes"),
        pytest.param(lambda: nested([torch.zeros(2, 2)]), id="inside a sequence"),
        pytest.param(lambda: Pair(torch.zeros(2), torch.zeros(3)), id="fields of one axis"),
        pytest.param(lambda: Pair(torch.zeros(2), torch.zeros(2), name=1), id="field without a shape"),
        pytest.param(lambda: Named(torch.zeros(2), torch.zeros(3)), id="inherited fields"),
        pytest.param(lambda: Pair.of(torch.zeros(2, 2)), id="class method"),
    ],
)
def test_what_is_wrong_is_found(call):
    with pytest.raises(TypeCheckError):
        call()


def test_scopes_are_a_calls_own():
    """An axis has another size in the next call, and in a call inside."""

    @hooked
    def outer(x: Float[Tensor, "B L"]) -> Float[Tensor, "L B"]:
        return inner(x.T)

    @hooked
    def inner(x: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        double(1)
        return x

    assert outer(X).shape == (3, 2)
    assert outer(Y).shape == (4, 3)
    with pytest.raises(TypeCheckError):
        product(X, X)
    assert product(Y, torch.zeros(4, 1)).shape == (3, 1)
