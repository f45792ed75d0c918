"""What the recipes of dense variants share: arrays of heads, norms of rows, and a case of a layer."""

from typing import Any

from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipe import Flag, Recipe, drawn
from kvattn.goldens.recipes._forms import layer_forms
from kvattn.goldens.recipes._loops import Nested, Row
from kvattn.goldens.recipes._told import told

NORMS = Flag(
    "QueryKeyNorm",
    "KNOWN_BUG",
    "Norms behind the rotation what is normed before it, or the reverse; leaves norms out; takes other weights or ε.",
    ("meta-pytorch/torchtune#2809", "vllm-project/vllm-metal#660"),
)


def root_mean_square(n: Numbers, row: Row, weights: Any, eps: Any) -> Row:
    size = n.sqrt(n.sum(x * x for x in row) / len(row) + eps)
    return [x / size if weights is None else x / size * weights[d] for d, x in enumerate(row)]


def whole_norm(n: Numbers, rows: Nested, weights: Row, eps: Any) -> Nested:
    """Over all heads of a token at once."""
    heads, width = len(rows[0]), len(rows[0][0][0])
    found: Nested = [[[] for _ in sequence] for sequence in rows]
    for b, sequence in enumerate(rows):
        for t in range(len(sequence[0])):
            flat = root_mean_square(n, [x for head in sequence for x in head[t]], weights, eps)
            for h in range(heads):
                found[b][h].append(flat[h * width : (h + 1) * width])
    return found


def drawn_heads(width: int = 6, kv_heads: int = 2, value_width: int = 3, tokens: int = 5) -> dict[str, Any]:
    label = f"dense {width} {kv_heads} {value_width} {tokens} "
    return {
        "q": drawn(label + "q", 1, 4, tokens, width),
        "k": drawn(label + "k", 1, kv_heads, tokens, width),
        "v": drawn(label + "v", 1, kv_heads, tokens, value_width),
    }


def case(
    name: str, row: str, operation: str, comment: str, inputs: Any, given: Any, formula: Any, worn: Any, **others: Any
) -> Recipe:
    forms = layer_forms(worn, whole=others.pop("whole", False))
    sibling = others.pop("sibling", None)
    return told(
        f"variants/{name}",
        f"variants/{row}",
        operation,
        comment,
        inputs,
        given,
        formula,
        forms,
        sibling=sibling and f"variants/{sibling}",
        **others,
    )
