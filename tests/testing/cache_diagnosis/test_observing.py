"""What a cache shows is written down as it is, right or wrong."""

from kvattn.testing.cache_diagnosis.observing import Shown, alike, observe
from kvattn.testing.cache_diagnosis.scripts import script
from kvattn.testing.conformance import Name, PagedAdapter
from kvattn.testing.planted_caches import PlantedCache, PlantedPages, PlantedRing

STEPS = script("start 0 2, append 0 3, rollback 0 1, append 0 1")


def test_each_query_sees_its_rows_by_name() -> None:
    keys, values = observe(PagedAdapter(), STEPS)[0].sights[0]
    assert keys[1][0][1] == ((0, Name(3, 0, 1, 0, 0)), (1, Name(4, 1, 1, 0, 0)))
    assert values[0][1][0] == ((0, Name(0, 0, 0, 1, 1)),)


def test_a_refusal_ends_it() -> None:
    shown = observe(PlantedCache(capacity=3), script("start 0 1, append 0 2, append 0 2, append 0 1"))
    assert [one.refused for one in shown] == [False, True]


def test_the_same_content_is_alike_however_it_is_stored() -> None:
    assert alike(observe(PagedAdapter(2), STEPS), observe(PlantedCache(), STEPS))
    assert alike(observe(PlantedPages(3), STEPS), observe(PlantedCache(), STEPS))


def test_other_content_is_not() -> None:
    for wrong in (PlantedCache(rollback_extra=1), PlantedCache(swaps=True), PlantedCache(says=1)):
        assert not alike(observe(wrong, STEPS), observe(PlantedCache(), STEPS))


def test_only_what_is_in_sight_counts() -> None:
    steps = script("start 0 1, append 0 3, append 0 1, append 0 1")
    assert alike(observe(PlantedRing(2), steps), observe(PlantedRing(2, keeps=4), steps))
    assert not alike(observe(PlantedRing(3), steps), observe(PlantedRing(3, keeps=1), steps))


def test_rows_in_front_of_those_that_are_held_are_seen_where_nothing_says_where_rows_are() -> None:
    """Mutant: places below 0 were not looked at, and a cache of which none has a length could keep old rows there."""
    steps = script("start 0 1, append 0 2")
    keys, _ = observe(PlantedCache(silent=True, leads=2), steps)[0].sights[0]
    assert [place for place, _ in keys[0][0][0]] == [-2, -1, 0]
    assert not alike(observe(PlantedCache(silent=True, leads=2), steps), observe(PlantedCache(), steps))


def test_a_length_that_is_not_told_is_no_difference() -> None:
    assert alike([Shown(lengths=(None,))], [Shown(lengths=(2,))])
    assert not alike([Shown()], [Shown(), Shown()])
