"""ALiBi: the slope table for any number of heads, and the penalty of each pair."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from kvattn.errors import ArgumentError
from kvattn.positions import Alibi
from kvattn.positions.alibi import KeyAlibi, SymmetricAlibi, mpt_slopes, power_slopes, slopes
from kvattn.typing import Place
from tests.positions.scored import DTYPES, PAIRS, Ball, Pair, Tally, added_cost, bent, example, full


def by_hand(heads: int) -> list[Fraction]:
    """Exponents of 2 as fractions, from the words of the paper and its released code."""
    power = max(p for p in (1, 2, 4, 8, 16, 32, 64, 128) if p <= heads)
    table = [-Fraction(8 * n, power) for n in range(1, power + 1)]
    longer = [-Fraction(8 * n, 2 * power) for n in range(1, 2 * power + 1)]
    odd = [exponent for n, exponent in enumerate(longer, start=1) if n % 2 == 1]
    return table + odd[: heads - power]


def is_power(slope: float, exponent: Fraction) -> bool:
    """Whether slope = 2 ** exponent, within a unit in the last place; compares integers, without pow."""
    n = exponent.denominator

    def raised(value: float) -> Fraction:
        return Fraction(value) ** n

    below, above = np.nextafter(slope, 0.0), np.nextafter(slope, 1.0)
    return raised(float(below)) <= Fraction(2) ** exponent.numerator <= raised(float(above))


@pytest.mark.parametrize("heads", [*range(1, 34), 40, 48, 63, 64, 65, 96])
def test_slopes_are_those_of_the_paper(heads: int) -> None:
    table = slopes(heads)
    assert len(table) == heads
    assert all(map(is_power, table, by_hand(heads)))
    assert Alibi.of(heads).slopes == table


def test_eight_heads_start_at_one_half() -> None:
    assert slopes(8) == (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256)


def geometric_for_all(heads: int) -> list[float]:
    """Mutant: the power-of-two rule for every number of heads."""
    return [2.0 ** (-8 * (h + 1) / heads) for h in range(heads)]


def from_zero(heads: int) -> list[float]:
    """Mutant: the exponent starts at 0."""
    return [2.0 ** (-8 * h / heads) for h in range(heads)]


def first_of_the_longer(heads: int) -> list[float]:
    """Mutant: the list for the power of two above, cut off."""
    return list(slopes(1 << (heads - 1).bit_length()))[:heads]


@pytest.mark.parametrize("mutant", [geometric_for_all, from_zero, first_of_the_longer])
@pytest.mark.parametrize("heads", [3, 6, 12, 40])
def test_another_table_is_rejected(mutant: Any, heads: int) -> None:
    assert not all(map(is_power, mutant(heads), by_hand(heads)))


@pytest.mark.parametrize("heads", range(1, 50))
def test_mpt_writes_the_same_table_in_other_words(heads: int) -> None:
    above = 1 << (heads - 1).bit_length()
    longer = slopes(above)
    assert slopes(heads) == (longer if above == heads else (longer[1::2] + longer[::2])[:heads])


SLOPES = (0.5, 0.25, 2.0, 0.0)


@pytest.mark.by_hand("positions/alibi")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_layer_equals_by_hand(dtype: Any) -> None:
    def score(pair: Pair) -> Ball:
        return pair.product - pair.told(SLOPES[pair.h] * (pair.i - pair.j))

    assert example(Alibi(SLOPES), score, dtype).gap() <= 1
    assert example(Alibi(SLOPES[::-1]), score, dtype).gap() > 2
    assert example(KeyAlibi(SLOPES), score, dtype).gap() > 2  # the lse sees it


@pytest.mark.by_hand("positions/alibi: of keys")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_layer_of_keys_equals_by_hand(dtype: Any) -> None:
    def score(pair: Pair) -> Ball:
        return pair.product + pair.told(SLOPES[pair.h] * pair.j)

    assert example(KeyAlibi(SLOPES), score, dtype).gap() <= 1
    assert example(Alibi(SLOPES), score, dtype).gap() > 2


@pytest.mark.by_hand("positions/alibi: symmetric")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_symmetric_penalty_equals_by_hand(dtype: Any) -> None:
    def score(pair: Pair) -> Ball:
        return pair.product - pair.told(SLOPES[pair.h] * abs(pair.i - pair.j))

    assert example(SymmetricAlibi(SLOPES), score, dtype).gap() <= 1
    assert bent(SymmetricAlibi(SLOPES), [4], [2, 6], 4)[:, 0].tolist() == [[-2 * s, -2 * s] for s in SLOPES]
    assert bent(Alibi(SLOPES), [4], [2, 6], 4)[:, 0].tolist() == [[-2 * s, 2 * s] for s in SLOPES]


def test_blooms_form_differs_by_a_constant_per_row_which_the_lse_sees() -> None:
    def score(pair: Pair) -> Ball:
        return pair.product

    plain, keys = (example(mod, score) for mod in (Alibi(SLOPES), KeyAlibi(SLOPES)))
    one, other = (full(each.layer, each.x) for each in (plain, keys))
    assert np.allclose(one.out, other.out, rtol=0, atol=1e-14)
    more = np.array(SLOPES)[None, :, None] * np.arange(6)
    assert np.allclose(other.lse - one.lse, more, rtol=0, atol=1e-13)


@pytest.mark.parametrize("heads", range(1, 40))
def test_where_the_tables_in_use_differ(heads: int) -> None:
    """The power-of-two rule is the paper's for powers of two alone; MPT's is the paper's for any number."""
    assert (power_slopes(heads) == slopes(heads)) == (heads & (heads - 1) == 0)
    assert mpt_slopes(heads) == slopes(heads)
    assert mpt_slopes(heads, 4.0) != slopes(heads)
    assert len(mpt_slopes(heads, 4.0)) == heads


def test_twelve_heads_in_three_tables() -> None:
    """The numbers that the page prints, of heads 0, 8 and 11."""
    paper, power, gentle = slopes(12), power_slopes(12), mpt_slopes(12, 4)
    assert [paper[h] for h in (0, 8, 11)] == [2**-1, 2**-0.5, 2**-3.5]
    assert [power[h] for h in (0, 8, 11)] == [2 ** (-8 / 12), 2**-6, 2**-8]
    assert [gentle[h] for h in (0, 8, 11)] == [2**-0.5, 2**-0.25, 2**-1.75]


def test_falcon_scales_the_penalty_and_some_heads_have_none() -> None:
    assert Alibi.of(2).scaled(1 / 8).slopes == (slopes(2)[0] / 8, slopes(2)[1] / 8)
    assert Alibi.of(2).padded(3).slopes == (*slopes(2), 0.0)
    assert (bent(Alibi.of(2).padded(3), [9], [0, 4], 3)[2] == 0).all()
    with pytest.raises(ArgumentError, match=r"^heads must be an integer >= 2, got 1$"):
        Alibi.of(2).padded(1)
    with pytest.raises(ArgumentError, match=r"^factor must be a finite number, got nan$"):
        Alibi.of(2).scaled(float("nan"))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_it_equals_the_penalty_by_hand(dtype: Any) -> None:
    alibi, q, k = Alibi.of(6), [3, 4, 9], [0, 3, 4, 12]
    scores = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(dtype)
    place = Place(0, np.arange(6)[:, None, None], None, np.array(q)[None, :, None], np.array(k)[None, None, :])
    bent = alibi(scores, place)
    assert bent.dtype == dtype
    for h in range(6):
        for i in range(3):
            for j in range(4):
                penalty = dtype(-alibi.slopes[h] * (q[i] - k[j]))
                assert bent[h, i, j] == scores[h, i, j] + penalty


def test_rows_of_several_heads_find_their_own_slope() -> None:
    """The kernel's layout: query heads of a group stand in rows, ``[h, rows, 1]``."""
    heads = np.array([[[2], [0], [1]]])
    place = Place(0, heads, None, np.array([[[5], [6], [7]]]), np.array([[[5, 4]]]))
    bent = Alibi((1.0, 10.0, 100.0))(np.zeros((1, 3, 2)), place)
    assert bent.tolist() == [[[0.0, -100.0], [-1.0, -2.0], [-20.0, -30.0]]]


def test_far_positions_keep_their_distance_in_float32() -> None:
    far = 2**40
    place = Place(0, np.zeros((1, 1, 1), int), None, np.array([[[far + 3]]]), np.array([[[far]]]))
    assert Alibi((1.0,))(np.zeros((1, 1, 1), np.float32), place).item() == -3.0


def test_moving_all_positions_alike_changes_nothing() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 2, 2))
    heads, q, k = np.arange(2)[:, None, None], np.array([[[3], [8]]]), np.array([[[0, 2]]])
    here, there = (Alibi.of(2)(scores, Place(0, heads, None, q + d, k + d)) for d in (0, 1000))
    assert (here == there).all()
    assert (here != scores).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Alibi.of(0), r"^heads must be an integer >= 1, got 0$"),
        (lambda: power_slopes(0), r"^heads must be an integer >= 1, got 0$"),
        (lambda: mpt_slopes(2, 0.0), r"^exponent must be a finite number above 0, got 0\.0$"),
        (lambda: SymmetricAlibi(()), r"^slopes must be a non-empty sequence of finite numbers, got \(\)$"),
        (lambda: KeyAlibi((float("nan"),)), r"^slopes\[0\] must be a finite number, got nan$"),
        (lambda: Alibi.of(True), r"^heads must be an integer >= 1, got True$"),
        (lambda: Alibi(()), r"^slopes must be a non-empty sequence of finite numbers, got \(\)$"),
        (lambda: Alibi((0.5, float("inf"))), r"^slopes\[1\] must be a finite number, got inf$"),
        (lambda: Alibi((True,)), r"^slopes\[0\] must be a finite number, got True$"),
    ],
    ids=range(9),
)
def test_a_bad_argument_is_named(call: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        call()


@pytest.mark.parametrize("head", [2, -1])
def test_a_head_without_slope_raises(head: int) -> None:
    at = np.zeros((1, 1, 1), np.int64)
    with pytest.raises(ArgumentError, match=f"^slopes must cover every query head, got 2 and head {head}$"):
        Alibi.of(2)(np.zeros((1, 1, 1)), Place(0, at + head, None, at, at))


def test_it_is_a_value() -> None:
    assert Alibi(np.array([0.5, 0.25])) == Alibi((0.5, 0.25))  # type: ignore[arg-type]
    assert hash(Alibi((0.5, 0.25))) == hash(Alibi((0.5, 0.25)))
    assert repr(Alibi((0.5,))) == "Alibi(slopes=(0.5,))"


def test_a_pair_costs_two_to_four_operations() -> None:
    def none(pair: Pair) -> Ball:
        return pair.product

    for mod, work in ((Alibi(SLOPES), 3), (SymmetricAlibi(SLOPES), 4), (KeyAlibi(SLOPES), 2)):
        assert added_cost(example(mod, none).layer) == Tally(arithmetic=work * PAIRS)
