"""Values that leave and come back: saved to files and restored, remembered by their tokens and reused."""

from collections.abc import Callable
import importlib.util
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from kvattn.caches import Origin, restore_npz, restore_safetensors, save_npz, save_safetensors
from kvattn.testing.machines.marked import Line
from kvattn.testing.machines.moving import MovingMachine
from kvattn.testing.machines.prefixes import Store, Told, begins, longest, text_of
from kvattn.testing.machines.storages import EVERYTHING
from kvattn.testing.machines.tokens import must
from kvattn.testing.machines.values import Kind, Value, declined

FORMATS: dict[str, tuple[Callable[[Any, Any], None], Callable[[Any, Any], Any]]] = {"npz": (save_npz, restore_npz)}
"""How to save and restore, by the name of the format; safetensors where its library is installed."""

if importlib.util.find_spec("safetensors") is not None:
    FORMATS["safetensors"] = (save_safetensors, restore_safetensors)

_STORES = 8


class KeepingMachine(MovingMachine):
    """What `MovingMachine` does, and save, restore, remember, reuse and forget.

    >>> from hypothesis import settings
    >>> from hypothesis.stateful import run_state_machine_as_test
    >>> run_state_machine_as_test(KeepingMachine, settings=settings(max_examples=2, stateful_step_count=5))
    """

    @rule(data=st.data())
    def save_and_restore(self, data: st.DataObject) -> None:
        """Save a value and restore it: the same rows on memory of its own; a file with a wrong bit is refused."""
        value = self._drawn(data)
        storage, sizes = value.kind
        save, restore = FORMATS[data.draw(st.sampled_from(sorted(FORMATS)), label="format")]
        path = Path(self.folder.name) / "cache"
        self._did("save", value.kind)
        if not storage.saves:
            declined(lambda: save(path, value.cache), f"saving a {storage.name} cache")
            self.check(value)
            return
        save(path, value.cache)
        like = storage.start(sizes, 1)
        self._did("restore", value.kind)
        if data.draw(st.booleans(), label="damage"):
            whole = path.read_bytes()
            place = data.draw(st.integers(0, len(whole) - 1), label="byte")
            path.write_bytes(
                whole[:place] + bytes([whole[place] ^ 1 << data.draw(st.integers(0, 7))]) + whole[place + 1 :]
            )
            declined(lambda: restore(path, like), f"a file with byte {place} changed")
            path.write_bytes(whole)
        again = restore(path, like)
        if hasattr(again, "footprint"):
            must(
                not set(again.footprint()) & set(value.cache.footprint()), "what is restored must lie in its own pages"
            )
            must(again.nbytes == value.cache.nbytes, f"pages must be shared as before, {value.cache.nbytes} bytes")
        self._bear(value, again, value.lines)

    @rule(data=st.data())
    def remember(self, data: st.DataObject) -> None:
        """Remember one sequence by its tokens; one with holes, or without a token, is refused."""
        whole = any(map(_can_be_told, self.values)) and data.draw(st.integers(0, 3), label="any") < 3
        value = self._drawn(data, _can_be_told if whole else lambda value: True)
        chosen = [b for b, line in enumerate(value.lines) if not whole or _is_whole(value.kind, line)]
        b = data.draw(st.sampled_from(chosen), label="sequence")
        line = value.lines[b]
        one = value.cache.select([b])
        adapter = data.draw(st.sampled_from((None, "x")), label="adapter")
        origin, text = _origin(value.kind, line, adapter), text_of(line)
        known = self._store(data)
        self._did("remember", value.kind)
        if not _is_whole(value.kind, line):
            declined(lambda: known.store.remember(origin, text or [0], one), "remembering holes or nothing")
            self.check(value)
            return
        store = known.store.remember(origin, text, one)
        self._keep(known._replace(store=store, told=(*known.told, Told(origin, line, value.kind))))
        self.check(value)
        if data.draw(st.booleans(), label="ask at once"):
            self._asked(self.stores[-1], data)

    @precondition(lambda self: any(store.told for store in self.stores))
    @rule(data=st.data())
    def reuse(self, data: st.DataObject) -> None:
        """Ask for a text that begins like one that was told, in its origin or another: find that, and go on from it."""
        chosen = [n for n, store in enumerate(self.stores) if store.told]
        self._asked(self.stores[data.draw(st.sampled_from(chosen), label="store")], data)

    def _asked(self, known: Store, data: st.DataObject) -> None:
        told = known.told[data.draw(st.sampled_from(range(len(known.told))), label="told")]
        origin = told.origin
        if data.draw(st.booleans(), label="another adapter"):
            origin = _with_adapter(origin, "x" if origin.adapter is None else None)
        text = text_of(told.line)
        stop = data.draw(st.sampled_from(sorted({0, 1, len(text) // 2, len(text) - 1, len(text)})), label="shared")
        asked = [*text[:stop], *data.draw(st.lists(st.integers(0, 1), max_size=3), label="tail")]
        self._did("reuse", told.kind)
        found, store = known.store.longest(origin, asked)
        self._keep(known._replace(store=store))
        most = longest(known, origin, asked)
        must(found.length <= most, f"at most {most} tokens may be found, got {found.length}: foreign")
        whole = known.roomy and told.kind.storage.memory.after is EVERYTHING.after
        must(not whole or found.length == most, f"{most} tokens must be found, got {found.length}: lost")
        must((found.cache is None) == (found.length == 0), f"a cache must be found for {found.length} tokens")
        if found.cache is not None:
            self._reborn(begins(known, origin, asked, found.length), found)

    def _reborn(self, candidates: list[Told], found: Any) -> None:
        """The value that was found, which holds what one of those with this origin and text held."""
        wrong = f"nothing of this origin was told, but {found.length} tokens were found: foreign"
        for told in candidates:
            value = Value(told.kind, found.cache, (self._cut(told.kind, told.line, found.length),))
            try:
                self.check(value)
            except AssertionError as error:
                wrong = str(error)  # not the error, which holds this frame and the cache with it
                continue
            self._bear(value, found.cache, value.lines)
            return
        raise AssertionError(wrong)

    @precondition(lambda self: any(hasattr(store.store, "forget") and store.told for store in self.stores))
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """Drop everything of one origin."""
        chosen = [n for n, known in enumerate(self.stores) if hasattr(known.store, "forget") and known.told]
        known = self.stores[data.draw(st.sampled_from(chosen), label="store")]
        told = known.told[data.draw(st.integers(0, len(known.told) - 1), label="told")]
        self._did("forget", told.kind)
        store = known.store.forget(told.origin)
        self._keep(known._replace(store=store, told=tuple(t for t in known.told if t.origin != told.origin)))

    def _store(self, data: st.DataObject) -> Store:
        count = len(self.stores)  # half of all draws are the newest, so that stores grow
        index: int = data.draw(st.sampled_from([*range(count), *[count - 1] * (count - 3)]), label="store")
        return self.stores[index]

    def _keep(self, store: Store) -> None:
        """Older stores stay valid; of many the oldest but the first three go."""
        must(store.roomy or store.store.nbytes <= store.store.budget, "a store must keep its budget")
        if len(self.stores) >= _STORES:
            self.stores.pop(3)
        self.stores.append(store)


def _origin(kind: Kind, line: Line, adapter: str | None) -> Origin:
    first = line.entries[0] if kind.storage.placed and line.entries else None
    source = line.note[0].owner if "append" in kind.storage.refuses else None
    return Origin(
        model=kind.name,
        adapter=adapter,
        dtype=kind.sizes.dtype,
        salt=None if source is None else f"source {source}",
        start=first.position if first is not None else 0,
    )


def _with_adapter(origin: Origin, adapter: str | None) -> Origin:
    return Origin(model=origin.model, adapter=adapter, dtype=origin.dtype, salt=origin.salt, start=origin.start)


def _is_whole(kind: Kind, line: Line) -> bool:
    """Whether a line has tokens, no hole, and tokens stand one behind the other."""
    places = [entry.position for entry in line.entries if entry is not None]
    if not places or None in line.entries:
        return False
    return not kind.storage.placed or places == list(range(places[0], places[0] + len(places)))


def _can_be_told(value: Value) -> bool:
    return any(_is_whole(value.kind, line) for line in value.lines)
