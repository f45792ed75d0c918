"""What is checked: a function brought by name or by hand, and what its signature says that it can do.

The contract of a plain callable, on ``[B, H, T, D]`` arrays (Hq a multiple of Hkv)::

    f(q, k, v, *, causal=False, window=None, scale=None, softcap=None, sinks=None, bias=None, mask=None)

with any subset of these keywords, and of the further ones of `kvattn.testing.keywords`; it returns ``out``
or ``(out, lse)``.  With T < S the queries are the last T positions; ``window`` comes only together with
``causal=True`` (or with ``ahead``) and counts the query's own key; ``mask`` is boolean ``[B, Hq, T, S]``,
True = may see; ``bias`` ``[B, Hq, T, S]`` is added to the scaled and capped scores; ``sinks`` ``[Hq]``
are logits in the denominator; ``lse`` is ``[B, Hq, T]`` in natural logarithms.  Anything else needs an
adapter: a function of this form around yours.  The adapters that kvattn brings are in `kvattn.interop`.

A function that has made another legal choice, and documents it, says so in an attribute:
``attend.conventions = {"causal-align"}``; the names are those of `kvattn.testing.diagnosis.conventions`.  One that
takes 0 and -inf, or 0 and 1, for a mask says ``attend.mask_form = "additive"``, or ``"zero-one"``; keywords that
it does not take together stand in ``attend.exclusive = [("causal", "mask")]``.  A kernel that takes only some shapes
says which: ``attend.head_dims = (64, 128)``, ``attend.batch_sizes = (1,)``; the names are those of
`kvattn.testing.shapes`.  ``attend.slow = True`` asks for fewer calls, ``False`` for all of them, and a check that is
told measures no time: its report is the same every time.
"""

from collections.abc import Callable, Mapping
import contextlib
from dataclasses import dataclass, field
import importlib
import inspect
from pathlib import Path
import sys
from typing import Any, NamedTuple, TypeAlias
import warnings

import numpy as np
from numpy.typing import NDArray

from kvattn.errors import ArgumentError
from kvattn.testing import keywords
from kvattn.testing.shapes import ANY, Shapes, shapes_of

KEYWORDS = tuple(keywords.KEYWORDS)
"""Every keyword of the contract, the plain one's first."""

EXPECTED = (
    "expected f(q, k, v, *, causal=False, window=None, scale=None, softcap=None, sinks=None, bias=None, mask=None)"
    " with any subset of these keywords"
)

ADAPTERS: Mapping[str, str] = {
    "torch.nn.functional:scaled_dot_product_attention": "kvattn.interop.torch",
    "torch.nn.attention.flex_attention:flex_attention": "kvattn.interop.torch_flex",
    "jax.nn:dot_product_attention": "kvattn.interop.jax",
    "mlx.core.fast:scaled_dot_product_attention": "kvattn.interop.mlx",
}
"""Names that kvattn has an adapter for, and the module whose ``target()`` returns it."""

Returned: TypeAlias = NDArray[Any]

NEUTRAL = {"causal": False, "alibi": False, "training": False, "return_weights": False, "dropout": 0.0, "splits": 1}
"""Values of required keywords that leave a call plain; None for the others."""


class Result(NamedTuple):
    """What a target returned, as arrays; ``lse`` and ``weights`` are None where it does not return them."""

    out: Returned
    lse: Returned | None
    weights: Returned | None = None


@dataclass(frozen=True)
class Target:
    """A function under test, with what is declared about it.

    Attributes
    ----------
    name
        How the report calls it.
    function
        The callable, of the contract's form.
    features
        The contract's keywords that it takes.
    setup
        Python that binds ``f``, for the line that reproduces a finding; empty where only the caller can.
    conventions
        Classes in which it is known to have made another legal choice: reported as conventions.
    exclusive
        Pairs of keywords that it does not take together.
    untested
        Optional parameters that the contract does not know; they stay at their defaults.
    mask_form
        How it takes its mask: ``"boolean"``, ``"additive"`` (0 or -inf) or ``"zero-one"``.
    shapes
        Sizes that it takes.
    slow
        Whether calls take so long that a check should make fewer; None to let it measure.

    Examples
    --------
    >>> def mine(q, k, v, *, causal=False):
    ...     return v
    >>> sorted(target_of(mine).features)
    ['causal']
    """

    name: str
    function: Callable[..., Any]
    features: frozenset[str]
    setup: str = ""
    conventions: frozenset[str] = frozenset()
    exclusive: frozenset[frozenset[str]] = frozenset()
    untested: tuple[str, ...] = ()
    required: frozenset[str] = field(default=frozenset())
    mask_form: str = "boolean"
    shapes: Shapes = ANY
    slow: bool | None = None

    def __call__(self, q: Returned, k: Returned, v: Returned, options: Mapping[str, Any]) -> Result:
        """Call the function; what it prints goes to stderr, what it warns is dropped.

        Returns
        -------
        Result
            Arrays as they came, unconverted but for ``np.asarray``.

        Raises
        ------
        TypeError
            Where something else than arrays of real numbers came.
        RuntimeError
            Where the function left the program.
        """
        neutral = {name: NEUTRAL.get(name) for name in self.required}
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                returned = self.function(q, k, v, **{**neutral, **options})
            except SystemExit as left:
                raise RuntimeError(f"the function left the program with code {left.code}") from left
        parts = list(returned) if isinstance(returned, tuple) and len(returned) in {2, 3} else [returned]
        weights = parts.pop() if options.get("return_weights") and len(parts) > 1 else None
        out, lse = parts if len(parts) == 2 else (parts[0], None)
        further = (None if x is None else _numbers(name, x) for name, x in (("lse", lse), ("weights", weights)))
        return Result(_numbers("out", out), *further)


def _numbers(name: str, returned: Any) -> Returned:
    array = np.asarray(returned)
    if not np.can_cast(array.dtype, np.float64, "same_kind"):  # objects, words, complex numbers
        raise TypeError(f"{name} must be an array of real numbers, got {type(returned).__name__} of {array.dtype}")
    return array


def target_of(function: Callable[..., Any], name: str | None = None, setup: str | None = None) -> Target:
    """Read a callable's signature.

    Raises
    ------
    ArgumentError
        Where it is no function of the contract's form: ``*args``, ``**kwargs``, an argument without a
        default that the contract does not know, fewer than three positional arguments, no signature.

    Examples
    --------
    >>> target_of(lambda q, k, v, *, mask=None, **more: q)
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: target must name its keywords, got **more; expected f(q, k, v, *, causal=False, \
window=None, scale=None, softcap=None, sinks=None, bias=None, mask=None) with any subset of these keywords
    """
    adapted = _adapter_of(function)
    if adapted is not None:
        return adapted
    if not callable(function):
        raise ArgumentError(f"target must be callable, got {type(function).__name__}; {EXPECTED}")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise ArgumentError(f"target must have a signature that Python can read; {EXPECTED}") from None
    spread = [str(p) for p in parameters if p.kind in {p.VAR_KEYWORD, p.VAR_POSITIONAL}]
    if spread:
        raise ArgumentError(f"target must name its keywords, got {spread[0]}; {EXPECTED}")
    first = parameters[:3]
    if len(first) < 3 or any(p.kind is p.KEYWORD_ONLY or p.name in KEYWORDS for p in first):
        raise ArgumentError(
            f"target must take q, k, v first, got ({', '.join(p.name for p in parameters)}); {EXPECTED}"
        )
    rest = parameters[3:]
    unknown = [p for p in rest if p.name not in KEYWORDS]
    needed = [p.name for p in unknown if p.default is p.empty]
    if needed:
        raise ArgumentError(f"target must need only what the contract has, got required {needed[0]}; {EXPECTED}")
    known = [p for p in rest if p.name in KEYWORDS and p.kind is not p.POSITIONAL_ONLY]
    features = {p.name for p in known}
    if "window" in features and not features & {"causal", "ahead"}:
        raise ArgumentError(f"target must take causal where it takes window; {EXPECTED}")
    lonely = sorted(name for name in features if not keywords.whole_signature(name, features))
    features -= {*lonely}  # what it means without the other one is not the contract's
    found, line = _place_of(function)
    return Target(
        name=found if name is None else name,
        function=function,
        features=frozenset(features),
        setup=line if setup is None else setup,
        conventions=_declared(function),
        mask_form=_mask_form(function),
        exclusive=frozenset(frozenset(pair) for pair in getattr(function, "exclusive", ())),
        untested=(*(p.name for p in unknown), *lonely),
        required=frozenset(p.name for p in known if p.default is p.empty),
        shapes=shapes_of(function),
        slow=_slow(function),
    )


def _declared(function: Callable[..., Any]) -> frozenset[str]:
    given: Any = getattr(function, "conventions", frozenset())
    if not isinstance(given, set | frozenset | tuple | list) or not all(isinstance(name, str) for name in given):
        raise ArgumentError(f"conventions of target must be a set of class names, got {given!r}")
    return frozenset(given)


def _mask_form(function: Callable[..., Any]) -> str:
    form = getattr(function, "mask_form", "boolean")
    if form not in {"boolean", "additive", "zero-one"}:
        raise ArgumentError(f"mask_form of target must be boolean, additive or zero-one, got {form!r}")
    return str(form)


def _slow(function: Callable[..., Any]) -> bool | None:
    slow: Any = getattr(function, "slow", None)
    if slow is not None and not isinstance(slow, bool):
        raise ArgumentError(f"slow of target must be True or False, got {slow!r}")
    return slow


def load(name: str) -> Target:
    """Import ``module:callable`` and read its signature.

    The working directory is searched first, as ``python -m`` does.

    Raises
    ------
    ArgumentError
        Where the name has another form, the module cannot be imported or has no such callable.

    Examples
    --------
    >>> load("math:sine")
    Traceback (most recent call last):
    kvattn.errors.ArgumentError: target must exist, got math:sine, and math has no sine
    """
    if name in ADAPTERS:
        return _adapter(ADAPTERS[name])
    module_name, colon, path = name.partition(":")
    if not colon or not module_name or not path:
        raise ArgumentError(f"target must have the form module:callable, got {name}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            value: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ArgumentError(f"target must be importable, got {name}: {error}") from error
    except Exception as error:
        raise ArgumentError(f"target must be importable, got {name}: {type(error).__name__}: {error}") from error
    for step in path.split("."):
        if not hasattr(value, step):
            raise ArgumentError(f"target must exist, got {name}, and {module_name} has no {path}")
        value = getattr(value, step)
    if isinstance(value, Target):
        return value
    simple = f"from {module_name} import {path} as f"
    return target_of(value, name, simple if "." not in path else f"import {module_name}; f = {module_name}.{path}")


def _adapter(module: str) -> Target:
    found: Target = importlib.import_module(module).target()
    return found


def _adapter_of(function: object) -> Target | None:
    """Find the adapter of a function that kvattn has one for, without importing its package."""
    for name, module in ADAPTERS.items():
        owner, _, path = name.partition(":")
        if owner in sys.modules and getattr(sys.modules[owner], path, None) is function:
            return _adapter(module)
    return None


def _place_of(function: Callable[..., Any]) -> tuple[str, str]:
    """Return a name, and the Python that binds it to ``f`` where it can be imported."""
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str):
        return repr(function), ""
    name = f"{module}:{path}"
    value: Any = sys.modules.get(module)
    for step in path.split("."):
        value = getattr(value, step, None)
    if value is not function or module == "__main__":
        return name, ""
    return name, f"import {module}; f = {module}.{path}"
