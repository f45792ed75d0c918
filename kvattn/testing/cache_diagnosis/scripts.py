"""What a cache is asked to do: short scripts that stand at the boundaries of what it declares.

A step is a verb and its numbers; the first number is the line, the cache that it is done to::

    start 0 2       line 0 is an empty cache of two sequences
    append 0 5      five tokens onto each of its sequences
    rollback 0 2    the newest two are taken back
    select 0 1 1 0  sequences reordered and repeated
    branch 0 1      line 1 goes on from line 0

The first scripts do one thing each, from the smallest numbers up; then come drawn ones that mix them.
"""

from collections.abc import Iterator, Sequence
import random
from typing import NamedTuple

from kvattn.testing.conformance.adapter import Capabilities

LONGEST = 40
"""Tokens to which a script grows a cache that has no capacity."""


class Step(NamedTuple):
    """One step.

    >>> str(Step("append", (0, 5)))
    'append 0 5'
    """

    verb: str
    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return " ".join([self.verb, *map(str, self.numbers)])


Script = tuple[Step, ...]


def script(text: str) -> Script:
    """Read a script.

    >>> script("start 0 2, append 0 5")[1]
    Step(verb='append', numbers=(0, 5))
    """
    steps = (part.split() for part in text.split(",") if part.strip())
    return tuple(Step(verb, tuple(map(int, numbers))) for verb, *numbers in steps)


def lengths_of(can: Capabilities) -> list[int]:
    """Lengths that matter: small ones, and one below, at and above each window and the capacity.

    >>> lengths_of(Capabilities(capacity=6))
    [1, 2, 3, 4, 5, 6]
    """
    edges = {n for part in can.parts for n in (part.window, part.sinks) if n}
    near = {1, 2, 3, 4, 5, 8, 9} | {n + d for n in edges for d in (-1, 0, 1)} | {2 * n + 1 for n in edges}
    most = LONGEST if can.capacity is None else can.capacity
    if can.capacity is not None:
        near |= {can.capacity - 1, can.capacity}
    return sorted(n for n in near if 0 < n <= most)


def scripts_of(can: Capabilities, seed: int = 0, drawn: int = 40) -> Iterator[Script]:
    """Scripts that only do what is declared.

    Parameters
    ----------
    can
        What must work.
    seed, drawn
        Of the mixed ones, and how many.

    Examples
    --------
    >>> first = next(scripts_of(Capabilities()))
    >>> ", ".join(map(str, first))
    'start 0 1, append 0 1'
    """
    lengths = lengths_of(can)
    most = LONGEST if can.capacity is None else can.capacity
    for n in lengths:
        yield script(f"start 0 1, append 0 {n}")
        yield script(f"start 0 2, append 0 {n}")
    for n in lengths:
        if n + 3 <= most:
            yield script(f"start 0 2, append 0 {n}, append 0 1, append 0 1, append 0 1")
    grown = ", ".join(["append 0 1"] * min(most, max(lengths)))
    yield script(f"start 0 1, {grown}")
    if can.many and "many" not in can.untried:
        yield from (
            script(f"start 0 2, append 0 {n}, append 0 {m}")
            for n in lengths
            for m in (2, 3, *lengths[-2:])
            if n + m <= most
        )
    if can.none and "none" not in can.untried:
        yield script("start 0 2, append 0 3, append 0 0, append 0 1")
    yield from _rollbacks(can, lengths, most)
    if can.select and "select" not in can.untried:
        yield script("start 0 3, append 0 3, select 0 1 2 0, append 0 1, append 0 1")
        yield script("start 0 2, append 0 5, select 0 1 0, append 0 1")
        yield script("start 0 2, append 0 2, select 0 0 1, append 0 1")
        if can.resize and "resize" not in can.untried:
            yield script("start 0 3, append 0 3, select 0 2 0 0, append 0 1")
            yield script("start 0 3, append 0 3, select 0 2 0, append 0 1")
            yield script("start 0 2, append 0 3, select 0 1 1 0 0, append 0 1")
    if can.branch:
        two = 2 if can.many and "many" not in can.untried else 1
        for n in sorted({*lengths, *range(1, 18)}):
            if n + 3 <= most:
                yield script(f"start 0 1, append 0 {n}, branch 0 1, append 0 1, append 1 1, append 0 {two}, append 1 1")
        yield script(f"start 0 2, append 0 3, branch 0 1, append 1 {two}, append 0 1")
    yield script("start 0 2, append 0 5, start 1 2, append 1 3, append 0 1")
    yield script("start 0 1, append 0 4, start 1 2, append 1 1")
    if can.capacity is not None and "overflow" not in can.untried:
        yield script(f"start 0 1, append 0 {can.capacity}, append 0 1")
        yield script(f"start 0 1, append 0 {can.capacity + 1}")
    generator = random.Random(seed)
    for _ in range(drawn):
        yield _drawn(can, generator, lengths, most)


def _rollbacks(can: Capabilities, lengths: Sequence[int], most: int) -> Iterator[Script]:
    if can.rollback == 0 or "rollback" in can.untried:
        return
    for n in lengths:
        for taken in sorted({0, 1, 2, n - 1, n}):
            if 0 <= taken <= n and (can.rollback is None or taken <= can.rollback):
                if n - taken < most:
                    yield script(f"start 0 2, append 0 {n}, rollback 0 {taken}, append 0 1")
                if n - taken + 3 <= most and can.many and "many" not in can.untried:
                    yield script(f"start 0 1, append 0 {n}, rollback 0 {taken}, append 0 3")
    longest = lengths[-1] - 3
    if longest > 1:
        yield script(f"start 0 1, append 0 {longest}, append 0 1, append 0 1, rollback 0 1, append 0 1, append 0 1")


def borders(can: Capabilities) -> Iterator[Script]:
    """Yield rollbacks of one token to each length that may be the border of a page, which tell sizes of pages apart.

    >>> [", ".join(map(str, steps[1:])) for steps in borders(Capabilities(capacity=4))]
    ['append 0 3, rollback 0 1, append 0 1', 'append 0 4, rollback 0 1, append 0 1']
    """
    if can.rollback != 0 and "rollback" not in can.untried:
        for left in range(2, 18):
            if _holds(can, left + 1):
                yield script(f"start 0 1, append 0 {left + 1}, rollback 0 1, append 0 1")


def oversize(can: Capabilities) -> Iterator[Script]:
    """Yield rollbacks of more tokens than there are, which may be refused.

    >>> [str(steps[2]) for steps in oversize(Capabilities())]
    ['rollback 0 4', 'rollback 0 5']
    """
    if not {"rollback", "oversize"} & can.untried and can.rollback is None and _holds(can, 4):
        yield from (script(f"start 0 1, append 0 3, rollback 0 {taken}, append 0 1") for taken in (4, 5))


def negative(can: Capabilities) -> Iterator[Script]:
    """Yield rollbacks of fewer tokens than none, which may be refused, or take back none.

    >>> [str(steps[2]) for steps in negative(Capabilities())]
    ['rollback 0 -1', 'rollback 0 -2']
    """
    if "negative" not in can.untried and _holds(can, 4):
        yield from (script(f"start 0 1, append 0 3, rollback 0 {taken}, append 0 1") for taken in (-1, -2))


def undeclared(can: Capabilities) -> Iterator[Script]:
    """Yield rollbacks of one token more than is declared, onto short caches and past each window: refused, or right.

    >>> [", ".join(map(str, steps[1:])) for steps in undeclared(Capabilities(rollback=0))]
    ['append 0 3, rollback 0 1, append 0 1', 'append 0 9, rollback 0 1, append 0 1']
    """
    if can.rollback is None or "rollback" in can.untried:
        return
    taken = can.rollback + 1
    for n in sorted({3, 9, *(2 * part.window + 1 for part in can.parts if part.window)}):
        if taken <= n and _holds(can, n):
            yield script(f"start 0 1, append 0 {n}, rollback 0 {taken}, append 0 1")


def _holds(can: Capabilities, tokens: int) -> bool:
    return can.capacity is None or can.capacity >= tokens


def _drawn(can: Capabilities, generator: random.Random, lengths: Sequence[int], most: int) -> Script:
    batch = generator.randint(1, 3)
    first = generator.choice(lengths)
    steps = [Step("start", (0, batch)), Step("append", (0, first))]
    held, recent, batches = {0: first}, {0: first}, {0: batch}
    for _ in range(generator.randint(1, 6)):
        line = generator.choice(sorted(held))
        verb = generator.choice(("append", "append", "rollback", "select", "branch"))
        if verb == "append":
            many = can.many and "many" not in can.untried
            count = generator.choice((1, 2, 3, *lengths)) if many else 1
            if held[line] + count > most:
                continue
            steps.append(Step("append", (line, count)))
            held[line], recent[line] = held[line] + count, count
        elif verb == "rollback":
            deep = held[line] if can.rollback is None else min(can.rollback, recent[line])
            if "rollback" in can.untried or can.rollback == 0 or not deep:
                continue
            taken = generator.choice((1, deep, generator.randint(0, deep)))
            steps.append(Step("rollback", (line, taken)))
            held[line], recent[line] = held[line] - taken, 0
        elif verb == "select" and can.select and "select" not in can.untried and held[line]:
            free = can.resize and "resize" not in can.untried
            count = generator.randint(1, 3) if free else batches[line]
            chosen = [generator.randrange(batches[line]) for _ in range(count)]
            if not free:
                chosen = generator.sample(range(count), count)
            steps.append(Step("select", (line, *chosen)))
            batches[line] = len(chosen)
        elif verb == "branch" and can.branch and len(held) < 3:
            fresh = len(held)
            steps.append(Step("branch", (line, fresh)))
            held[fresh], recent[fresh], batches[fresh] = held[line], 0, batches[line]
    for line, length in held.items():
        if length < most:
            steps.append(Step("append", (line, 1)))
    return tuple(steps)


def smaller(steps: Script) -> Iterator[Script]:
    """Yield scripts with one step less, or with one number less.

    >>> [", ".join(map(str, s)) for s in smaller(script("start 0 1, append 0 2"))]
    ['start 0 1', 'start 0 1, append 0 1']
    """
    for place in range(1, len(steps)):
        yield steps[:place] + steps[place + 1 :]
    for place, step in enumerate(steps):
        if step.verb in {"append", "rollback", "start"} and step.numbers[1] > 1:
            for less in sorted({1, step.numbers[1] // 2, step.numbers[1] - 1}):
                if less < step.numbers[1]:
                    yield (*steps[:place], Step(step.verb, (step.numbers[0], less)), *steps[place + 1 :])
