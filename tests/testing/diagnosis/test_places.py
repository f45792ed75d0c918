"""Places and pages, told by loops."""

import numpy as np

from kvattn.testing.diagnosis.behaviour import Behaviour
from kvattn.testing.diagnosis.places import dense, lineage, paged
from kvattn.testing.diagnosis.recipe import TABLE, Recipe, Sizes


def test_pages_laid_out_and_gathered_are_what_they_were() -> None:
    r = np.random.default_rng(0)
    x, table, lengths = r.standard_normal((2, 3, 11, 5)), np.array([[4, 0, 3], [1, 6, 2]]), np.array([11, 6])
    pool = paged(x, table, lengths)
    for b, s in ((0, 0), (0, 10), (1, 5), (1, 3)):
        assert np.array_equal(pool[table[b, s // 4], :, s % 4], x[b, :, s])
    assert (pool[[5, 7, 8]] == 7).all()  # owned by nobody
    assert (pool[table[1, 1], :, 2:] == 7).all()  # behind the last key


def test_a_paged_case_means_what_it_means_without_pages() -> None:
    lengths = ("lengths", "np.array([9, 6])[:{B}]")
    sizes = Sizes(2, 2, 1, 3, 9, 4, 4)
    paged_case = Recipe(sizes, options=(("causal", "True"), lengths, ("block_table", TABLE)))
    plain = Recipe(sizes, options=(("causal", "True"), lengths))
    assert paged_case.build().k.shape[2] == 4
    found, wanted = (Behaviour().expected(case.build()) for case in (paged_case, plain))
    assert np.allclose(found.out, wanted.out, rtol=0, atol=1e-14)


def test_factors_are_multiplied_in_and_what_changes_nothing_is_gone() -> None:
    options = (("k_scale", "np.array([2.0, 3.0])"), ("splits", "3"), ("scale", "0.5"))
    built = Recipe(Sizes(Hq=2, Hkv=2), options=options).build()
    found = dense(built)
    assert np.array_equal(found.k[:, 1], 3 * built.k[:, 1])
    assert np.array_equal(found.v, built.v)
    assert found.options == {"scale": 0.5}


def test_a_lineage_is_the_node_and_its_ancestors() -> None:
    parents = np.array([-1, 0, 0, 2, -1, 3])
    for t in range(len(parents)):
        line, at = {t}, t
        while parents[at] >= 0:
            at = int(parents[at])
            line.add(at)
        assert set(np.flatnonzero(lineage(parents)[t]).tolist()) == line
