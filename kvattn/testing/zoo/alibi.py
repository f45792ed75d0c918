"""Cases of `kvattn.positions.alibi`: the paper's form, the symmetric one and that of keys alone."""

from kvattn.positions.alibi import Alibi, KeyAlibi, SymmetricAlibi, mpt_slopes, power_slopes, slopes
from kvattn.testing.choices import Choices, pick
from kvattn.testing.laws import Case
from kvattn.testing.zoo._bent import bent
from kvattn.typing import Mod
from kvattn.variants.dense.projections import Projections


def alibi(choices: Choices) -> Case:
    """Grouped-query attention with a linear penalty, with slopes of several tables.

    >>> from kvattn.testing.choices import Recorded
    >>> alibi(Recorded()).variant.mods
    (Alibi(slopes=(0.00390625,)),)
    """
    form, table = choices.integer(0, 2, "form"), pick(choices, (slopes, power_slopes, mpt_slopes), "table")

    def scheme(weights: Projections) -> Mod:
        found = table(weights.heads)
        return (Alibi(found), SymmetricAlibi(found), KeyAlibi(found))[form]

    # the lse of the form of keys grows with their positions
    return bent(choices, scheme, relative=form != 2)
