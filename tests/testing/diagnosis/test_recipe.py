"""What a recipe builds is what its code builds, and its smaller cases are legal ones."""

from typing import Any

import numpy as np
import pytest

from kvattn.testing.diagnosis.recipe import BY_BATCH, BY_HEAD, ONE_HOT, RANDOM, Recipe, Sizes

FULL = Recipe(
    Sizes(B=2, Hq=4, Hkv=2, T=3, S=5, D=6, Dv=6),
    options=(
        ("causal", "True"),
        ("window", "{S} - 1"),
        ("sinks", "r.standard_normal({Hq})"),
        ("mask", "r.random(({T}, {S})) < 0.5"),
    ),
    edits=("v[:, :, 0] = np.nan",),
    dtype="float32",
    seed=9,
)


def test_the_code_and_the_call_give_the_arrays_that_were_run() -> None:
    seen: dict[str, Any] = {}

    def f(q: Any, k: Any, v: Any, **options: Any) -> None:
        seen.update(q=q, k=k, v=v, options=options)

    exec(f"{FULL.code()}; {FULL.call()}", {"np": np, "f": f})  # noqa: S102 - that it runs is what is tested
    built = FULL.build()
    for name in "qkv":
        np.testing.assert_array_equal(seen[name], getattr(built, name))
        assert seen[name].dtype == np.float32
    assert seen["options"].keys() == built.options.keys() == {"causal", "window", "sinks", "mask"}
    assert (built.options["window"], built.options["mask"].dtype, built.options["sinks"].dtype) == (4, bool, np.float32)
    assert np.isnan(built.v[:, :, 0]).all()


@pytest.mark.parametrize("values", [RANDOM, ONE_HOT, BY_HEAD, BY_BATCH])
def test_every_smaller_case_builds_and_is_legal(values: str) -> None:
    start = Recipe(Sizes(B=2, Hq=6, Hkv=2, T=3, S=5, D=8, Dv=8), values=values)
    pending, met = [start], {start.sizes}
    while pending:
        for smaller in pending.pop().smaller():
            size = smaller.sizes
            assert size.Hq % size.Hkv == 0
            assert size.T <= size.S
            assert values != ONE_HOT or size.Dv >= size.S
            if size not in met:
                met.add(size)
                pending.append(smaller)
        if len(met) > 300:
            break
    for size in list(met)[:60]:
        built = Recipe(size, values=values).build()
        assert built.q.shape == (size.B, size.Hq, size.T, size.D)
        assert built.v.shape == (size.B, size.Hkv, size.S, size.Dv)
    assert Sizes(1, 1, 1, 1, 1, 1, 1) in met or len(met) > 300
