"""Tree decoding: several drafts that share their beginnings are checked in one step, and one of them stays.

    node n stands at position  start + depth_n,    sees the past, its ancestors and itself
    commit: keep the rows of one path from the past, in order, and forget the others

The tree's tokens come as N new rows behind the past, in slots ``start + n``; the caller turns queries and keys at
``Tree.positions``.  Who sees whom is `kvattn.masks.tree.Tree` on slots; further masks and mods are asked at
positions.  A node's result is that of decoding its path alone within a few roundings: the same keys stand in other
slots, so that sums pair otherwise.  Where slots are the same, as in a chain, it is equal to the bit; and after
`commit` they are the same: keys are turned at depth already, so the cache is what plain decoding of the path would
have left, to the bit, and so is everything after.

Shapes: ``q [B, Hq, N, D]``, ``k [B, Hkv, N, D]``, ``v [B, Hkv, N, Dv]``; all sequences of a batch have one tree.
Cached per token: a row per node until the verdict, then a row per accepted token.
Cost: attention over ``start + N`` keys for N queries; a commit writes again what moves, and copies a page that the
draft has extended.
Source: Miao et al. 2023, SpecInfer (arXiv 2305.09781) §4.2; Cai et al. 2024, Medusa (2401.10774) §2.1.2; Li et al.
2024, EAGLE (2401.15077).

Where libraries differ: a position taken from the slot in place of the depth; a cousin that arrived earlier taken
for an ancestor where tiles below the diagonal are not looked at (FastDeploy #3514).
"""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from kvattn.arguments import integers
from kvattn.arrays import floating
from kvattn.axes import sizes
from kvattn.caches.paged import Paged
from kvattn.caches.rows import KeyValue, R
from kvattn.core import streaming
from kvattn.core.pipeline import arguments_of, settle
from kvattn.errors import ArgumentError
from kvattn.execution._numbered import Numbers, numbered
from kvattn.masks.combine import Both
from kvattn.masks.tree import Tree
from kvattn.one_liners import check_heads
from kvattn.typing import Array, Attended, Mask, Mod


def tree_attend(
    cache: Paged[KeyValue],
    q: Array,
    k: Array,
    v: Array,
    tree: Tree,
    *,
    mask: Mask | None = None,
    mods: Sequence[Mod] = (),
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
) -> tuple[Attended, Paged[KeyValue]]:
    """Attend with all nodes of a tree, and remember them.

    Parameters
    ----------
    cache
        The past, ``tree.start`` tokens of every sequence; it stays valid.
    q, k, v
        ``[B, Hq, N, D]``, ``[B, Hkv, N, D]``, ``[B, Hkv, N, Dv]``, a row per node, of the cache's dtype, turned at
        ``tree.positions`` where the layer turns anything.
    tree
        The nodes' parents.
    mask
        A further mask on positions, such as a window; the tree alone unless given.
    mods, scale, softcap, sinks
        As in `kvattn.execution.question.Question`; mods are asked at positions, where siblings are alike.

    Returns
    -------
    tuple
        ``out [B, Hq, N, Dv]`` with ``lse [B, Hq, N]``, and the cache with the nodes in slots ``start + n``.

    Raises
    ------
    ArgumentError, ShapeError, DtypeError
        A tree that does not begin where the cache ends; arrays that do not fit.

    Examples
    --------
    >>> from kvattn.caches import key_value
    >>> past = Paged.start(key_value(1, 1)).append([np.ones((1, 1, 2, 1))] * 2)
    >>> nodes = np.array([4.0, 7.0]).reshape(1, 1, 2, 1)
    >>> found, held = tree_attend(past, nodes * 0, nodes, nodes, Tree([-1, -1], start=2))
    >>> found.out.ravel(), commit(held, Tree([-1, -1], start=2), [1]).rows().v.ravel()
    (array([2., 3.]), array([1., 1., 7.]))
    """
    count = len(tree.parents)
    if tree.start != cache.length:
        raise ArgumentError(f"tree must start at {cache.length}, where the cache ends, got {tree.start}")
    if [field.name for field in cache.schema.fields] != ["k", "v"]:
        raise ArgumentError(f"cache must hold keys k and values v, got {cache.schema.name}")
    keys, values = cache.schema.fields
    q, k, v = floating("q", q, keys.dtype), floating("k", k, keys.dtype), floating("v", v, keys.dtype)
    bound = sizes(
        ("q", q, f"{cache.batch} Hq {count} {keys.width}"),
        ("k", k, f"{cache.batch} {keys.heads} {count} {keys.width}"),
        ("v", v, f"{cache.batch} {values.heads} {count} {values.width}"),
    )
    check_heads(bound["Hq"], keys.heads)
    layer = SimpleNamespace(mask=mask, mods=tuple(mods), scale=scale, softcap=softcap, sinks=sinks)
    settle(layer, bound["Hq"], keys.dtype)
    held = cache.append(KeyValue(k, v))
    places = np.concatenate([np.arange(tree.start), tree.positions])
    further, bent = numbered(layer.mask, layer.mods, Numbers(places, places))
    found = streaming.attend(
        q,
        np.tile(tree.start + np.arange(count), (cache.batch, 1)),
        [held.blocks(b) for b in range(cache.batch)],
        value_width=values.width,
        **arguments_of(layer, mask=tree if further is None else Both(tree, further), mods=bent),
    )
    return found, held


def commit(cache: Paged[R], tree: Tree, path: Sequence[int]) -> Paged[R]:
    """The cache with one path of the tree behind the past, and nothing else of it.

    Parameters
    ----------
    cache
        With the nodes in slots ``start + n``, of any schema; it stays valid.
    tree
        The nodes' parents.
    path
        The accepted nodes, from a child of the past on; none where everything was rejected.

    Raises
    ------
    ArgumentError
        Nodes that are not a path from the past; a cache that does not hold the tree.

    Examples
    --------
    >>> from kvattn.caches import latent
    >>> tree = Tree([-1, -1, 1], start=1)
    >>> held = Paged.start(latent(1)).append([np.arange(4.0).reshape(1, 1, 4, 1)])
    >>> commit(held, tree, [1, 2]).rows().latent.ravel()
    array([0., 2., 3.])
    """
    behind = tree.start + len(tree.parents)
    if cache.length != behind:
        raise ArgumentError(f"cache must hold {behind} tokens, the past and all nodes, got {cache.length}")
    nodes = integers("path", path, 0) if len(path) else ()
    last = -1
    for place, node in enumerate(nodes):
        if node >= len(tree.parents) or tree.parents[node] != last:
            wanted = f"a child of node {last}" if place else "a child of the past"
            raise ArgumentError(f"path[{place}] must be {wanted}, got {node}")
        last = node
    return cache.commit(tree.start, nodes)
