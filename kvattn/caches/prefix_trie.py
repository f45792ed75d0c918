"""Prefix reuse by a token trie: caches remembered by their tokens, the longest shared beginning found again.

    longest(tokens) = the first n tokens of a remembered cache, n as large as any of them allows

The tokens of the remembered caches stand in a radix tree, one for each `Origin`, whose edges are runs of tokens.
A prefix may end anywhere: in the middle of an edge and of a page.  What is found is cut by reference, so that no
row is copied; whoever goes on from the middle of a page copies that page when it appends (copy-on-write).

A `PrefixTrie` is a value, as caches are: `remember`, `longest` and `forget` return another one that shares all but
one path, and nothing done to one shows in another.  Eviction therefore needs no counts of users: a cache that the
trie drops lives as long as anybody else holds it, and an owner who wants its bytes back drops the older trie.

What a cache no longer remembers is not given out: where `truncate` refuses (a window that has moved on, a
recurrent state), another cache with this beginning is asked, then shorter beginnings where the tree branches.

Cost: `longest` compares each token once and rebuilds one path, a pointer for each child on it; `remember` looks at
every page of every cache to find what must go.
Source: Zheng et al. 2023, SGLang's RadixAttention (arXiv 2312.07104) §3; the tree is Morrison 1968's.
Where libraries differ: only whole pages are shared (SGLang with pages of more than one token); a length rounded to
a page made an empty node (SGLang #28692); reuse after a window has wrapped (TensorRT-LLM #2912, #2983).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NamedTuple

from kvattn.arguments import integer
from kvattn.caches.prefix_keys import C, Found, Origin, Tokens, Usage, check_cache, read_tokens, too_many
from kvattn.errors import RollbackError
from kvattn.typing import Indices


class _Kept(NamedTuple):
    tokens: Tokens
    cache: Any
    used: int


class _Node(NamedTuple):
    edge: Tokens
    kept: _Kept | None
    children: Mapping[Any, "_Node"]


_ROOT = _Node((), None, {})


@dataclass(frozen=True, slots=True, eq=False)
class PrefixTrie(Generic[C]):
    """Caches by their tokens; make one with `PrefixTrie.start`.

    Attributes
    ----------
    budget
        Bytes that all remembered caches may hold together, shared pages once.
    usage
        What was asked for and found so far.

    Examples
    --------
    >>> import numpy as np
    >>> from kvattn.caches.paged import Paged
    >>> from kvattn.caches.rows import latent
    >>> origin = Origin(model="m 1", adapter=None, dtype=np.float64, salt=None, start=0)
    >>> cache = Paged.start(latent(1), page=4).append([np.arange(6.0).reshape(1, 1, 6, 1)])
    >>> trie = PrefixTrie.start(budget=1 << 20).remember(origin, [7, 8, 9, 7, 8, 9], cache)
    >>> found, trie = trie.longest(origin, [7, 8, 9, 1])
    >>> found
    Found(cache=Paged(Latent, page=4, lengths=(3,)), length=3)
    >>> trie.usage.hit_rate
    0.75
    """

    budget: int
    usage: Usage
    _roots: Mapping[Origin, _Node] = field(repr=False)
    _clock: int = field(repr=False)

    @classmethod
    def start(cls, budget: int) -> "PrefixTrie[C]":
        """The empty trie.

        Raises
        ------
        ArgumentError
            A budget that is no integer, or negative.

        Examples
        --------
        >>> PrefixTrie.start(budget=0)
        PrefixTrie(caches=0, nbytes=0, budget=0)
        """
        return cls(integer("budget", budget, 0), Usage(), {}, 0)

    def __repr__(self) -> str:
        return f"PrefixTrie(caches={len(self)}, nbytes={self.nbytes}, budget={self.budget})"

    def __len__(self) -> int:
        return sum(1 for _ in self._all())

    def remember(self, origin: Origin, tokens: Sequence[int | bytes] | Indices, cache: C) -> "PrefixTrie[C]":
        """Remember the cache of one sequence; what was used longest ago goes until the budget is kept.

        A cache that is larger than the budget by itself is not remembered: everything else would go for nothing.

        Raises
        ------
        ArgumentError
            No token, a cache that holds another number of tokens or several sequences, or one with released slots.

        Examples
        --------
        >>> import numpy as np
        >>> from kvattn.caches.paged import Paged
        >>> from kvattn.caches.rows import latent
        >>> origin = Origin(model="m 1", adapter=None, dtype=np.float64, salt=None, start=0)
        >>> cache = Paged.start(latent(1), page=4).append([np.ones((1, 1, 3, 1))])
        >>> PrefixTrie.start(budget=40).remember(origin, [1, 2, 3], cache).remember(
        ...     origin, [4], Paged.start(latent(1), page=4).append([np.ones((1, 1, 1, 1))])
        ... )
        PrefixTrie(caches=1, nbytes=32, budget=40)
        """
        read = read_tokens(tokens)
        check_cache(cache, origin, read)
        if sum(cache.footprint().values()) > self.budget:
            return self
        roots = {**self._roots}
        roots[origin] = _put(roots.get(origin, _ROOT), _Kept(read, cache, self._clock))
        known = sorted(replace(self, _roots=roots)._all(), key=lambda each: each[1].used)
        for place, gone in known[: too_many([kept.cache for _, kept in known], self.budget)]:
            roots[place] = _without(roots[place], gone.tokens)
        return replace(self, _roots={o: n for o, n in roots.items() if n.children}, _clock=self._clock + 1)

    def longest(self, origin: Origin, tokens: Sequence[int | bytes] | Indices) -> "tuple[Found[C], PrefixTrie[C]]":
        """The longest beginning of these tokens that a remembered cache of this origin can be cut to.

        Returns
        -------
        tuple
            The cache with its length (at most all of the tokens: who needs the output of the last one asks for one
            token less), and the trie in which it was just used.

        Raises
        ------
        ArgumentError
            Tokens that are neither integers >= 0 nor bytes.

        Examples
        --------
        >>> import numpy as np
        >>> origin = Origin(model="m 1", adapter=None, dtype=np.float64, salt=None, start=0)
        >>> PrefixTrie.start(budget=0).longest(origin, [1, 2])[0]
        Found(cache=None, length=0)
        """
        read = read_tokens(tokens)
        root = self._roots.get(origin, _ROOT)
        roots, found = self._roots, Found[C](None, 0)
        for length, node in _shared(root, read):
            hit = next(self._cut(node, read, length), None)
            if hit is not None:
                kept, found = hit
                roots = {**roots, origin: _put(root, kept._replace(used=self._clock))}
                break
        usage = self.usage.after(len(read), found)
        return found, replace(self, usage=usage, _roots=roots, _clock=self._clock + 1)

    def _cut(self, node: _Node, tokens: Tokens, length: int) -> Iterator[tuple[_Kept, Found[C]]]:
        for kept in _below(node):
            if kept.tokens[:length] != tokens[:length]:
                continue
            try:
                yield kept, Found(kept.cache.truncate(length), length)
            except RollbackError:
                continue

    def forget(self, origin: Origin) -> "PrefixTrie[C]":
        """Drop everything of one origin, as when an adapter is unloaded.

        >>> origin = Origin(model="m 1", adapter="law", dtype="f4", salt=None, start=0)
        >>> PrefixTrie.start(budget=0).forget(origin)
        PrefixTrie(caches=0, nbytes=0, budget=0)
        """
        return replace(self, _roots={o: node for o, node in self._roots.items() if o != origin})

    def _all(self) -> Iterator[tuple[Origin, _Kept]]:
        return ((origin, kept) for origin, root in self._roots.items() for kept in _below(root))

    def footprint(self) -> Mapping[int, int]:
        """Serial number and bytes of every page held, each once.

        >>> PrefixTrie.start(budget=0).footprint()
        {}
        """
        return {serial: nbytes for _, kept in self._all() for serial, nbytes in kept.cache.footprint().items()}

    @property
    def nbytes(self) -> int:
        """Bytes of all remembered caches, shared pages once; at most the budget.

        >>> PrefixTrie.start(budget=0).nbytes
        0
        """
        return sum(self.footprint().values())


def _below(node: _Node) -> Iterator[_Kept]:
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node.kept is not None:
            yield node.kept
        waiting.extend(node.children.values())


def _common(left: Tokens, right: Tokens) -> int:
    short = min(len(left), len(right))
    if left[:short] == right[:short]:
        return short
    return next(n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)


def _walk(root: _Node, tokens: Tokens) -> tuple[list[tuple[int, _Node]], _Node | None, int]:
    """The nodes that lie wholly on the way, each with its depth; the one that is left inside its edge; how deep."""
    path, at = [(0, root)], 0
    while at < len(tokens) and (child := path[-1][1].children.get(tokens[at])) is not None:
        same = _common(child.edge, tokens[at : at + len(child.edge)])
        at += same
        if same < len(child.edge):
            return path, child, at
        path.append((at, child))
    return path, None, at


def _shared(root: _Node, tokens: Tokens) -> Iterator[tuple[int, _Node]]:
    """Lengths of shared beginnings, the longest first, each with the part of the tree that begins so."""
    path, inside, at = _walk(root, tokens)
    if inside is not None:
        yield at, inside
    yield from ((depth, node) for depth, node in reversed(path) if depth)


def _rebuilt(path: Sequence[tuple[int, _Node]], node: _Node) -> _Node:
    for _, parent in reversed(path):
        node = parent._replace(children={**parent.children, node.edge[0]: node})
    return node


def _put(root: _Node, kept: _Kept) -> _Node:
    tokens = kept.tokens
    path, inside, at = _walk(root, tokens)
    if inside is not None:
        same = at - path[-1][0]
        rest = inside._replace(edge=inside.edge[same:])
        path.append((at, _Node(inside.edge[:same], None, {rest.edge[0]: rest})))
    _, last = path.pop()
    if at == len(tokens):
        return _rebuilt(path, last._replace(kept=kept))
    leaf = _Node(tokens[at:], kept, {})
    return _rebuilt(path, last._replace(children={**last.children, leaf.edge[0]: leaf}))


def _without(root: _Node, tokens: Tokens) -> _Node:
    path = _walk(root, tokens)[0]
    node = path.pop()[1]._replace(kept=None)
    if not node.children and path:
        _, parent = path.pop()
        node = parent._replace(children={t: child for t, child in parent.children.items() if t != node.edge[0]})
    if path and node.kept is None and len(node.children) == 1:
        (child,) = node.children.values()
        node = child._replace(edge=node.edge + child.edge)
    return _rebuilt(path, node)
