"""Rotary frequencies as their papers have them: from a scheme's parameters to frequencies and a magnitude.

``p`` holds a case's parameters: ``scheme``, ``rotary_dim``, ``base`` and what the scheme asks for.
`frequencies` gives one number for each pair of features, `magnitude` the factor on cosine and sine; ``length`` is
the number of tokens of the sequence, which only the dynamic schemes look at.
"""

from collections.abc import Mapping
import math
from typing import Any

from kvattn.goldens.numbers import Numbers
from kvattn.goldens.recipes._loops import Row, floor, geometric, power


def frequencies(n: Numbers, p: Mapping[str, Any], length: int = 0) -> Row:
    """One frequency for each pair."""
    return _SCHEMES[p.get("scheme", "plain")](n, p, length)


def magnitude(n: Numbers, p: Mapping[str, Any], length: int = 0) -> Any:
    """The factor on cosine and sine."""
    scheme = p.get("scheme", "plain")
    if scheme == "yarn":
        if p.get("attention_factor") is not None:
            return n(p["attention_factor"])
        return mscale(n, p["factor"], p.get("mscale", 1.0)) / mscale(n, p["factor"], p.get("mscale_all_dim", 0.0))
    if scheme == "longrope":
        explicit = p.get("long_magnitude" if length > p["trained"] else "short_magnitude")
        if explicit is not None:
            return n(explicit)
        ratio = n.log(n(p["factor"])) / n.log(n(p["trained"]))
        return n.sqrt(1 + ratio)
    return n(1)


def mscale(n: Numbers, factor: float, number: float) -> Any:
    """``0.1 · number · ln(factor) + 1``: Peng et al. 2023 (2309.00071) §3.4, the number from DeepSeek-V2."""
    return n(number) * n.log(n(factor)) / 10 + 1


def _plain(n: Numbers, p: Mapping[str, Any], _length: int) -> Row:
    """Su et al. 2021 (2104.09864)."""
    return geometric(n, p["rotary_dim"], p["base"])


def _none(n: Numbers, p: Mapping[str, Any], _length: int) -> Row:
    """Nothing turns."""
    return [n(0)] * (p["rotary_dim"] // 2)


def _whole_exponents(n: Numbers, p: Mapping[str, Any], _length: int) -> Row:
    """A mistake: the exponents of the whole head for the part of it that turns."""
    return geometric(n, p["head_dim"], p["base"])[: p["rotary_dim"] // 2]


def _linear(n: Numbers, p: Mapping[str, Any], _length: int) -> Row:
    """Chen et al. 2023 (2306.15595) eq. 4: a position turns as the position over the factor did."""
    return [theta / n(p["factor"]) for theta in geometric(n, p["rotary_dim"], p["base"])]


def _of_alpha(n: Numbers, p: Mapping[str, Any], alpha: Any) -> Row:
    r = p["rotary_dim"]
    base = n(p["base"]) * power(n, alpha, n(r) / (r - 2))
    return [power(n, base, n(-2 * k) / r) for k in range(r // 2)]


def _ntk(n: Numbers, p: Mapping[str, Any], _length: int) -> Row:
    """Peng et al. 2023 (2309.00071) §3.1: the base times alpha^(r/(r-2))."""
    return _of_alpha(n, p, n(p["alpha"]))


def _dynamic(n: Numbers, p: Mapping[str, Any], length: int) -> Row:
    """Peng et al. 2023 (2309.00071) §3.3: alpha = factor · L / L0 - (factor - 1), L at least L0."""
    factor, longest = n(p["factor"]), max(length, p["trained"])
    return _of_alpha(n, p, factor * longest / p["trained"] - (factor - 1))


def _yarn(n: Numbers, p: Mapping[str, Any], _length: int) -> Row:
    """Peng et al. 2023 (2309.00071) §3.2: by how often a pair turns in the trained length."""
    r, base = p["rotary_dim"], n(p["base"])

    def pair_that_turns(times: float) -> Any:
        return r * n.log(p["trained"] / (2 * n.pi() * n(times))) / (2 * n.log(base))

    low, high = pair_that_turns(p.get("fast", 32.0)), pair_that_turns(p.get("slow", 1.0))
    if p.get("truncate", True):
        low, high = n(floor(low)), n(-floor(-high))
    low, high = low if low > 0 else n(0), high if high < r - 1 else n(r - 1)
    if not low < high:
        high = low + n(1) / 1000
    found = []
    for k, theta in enumerate(geometric(n, r, p["base"])):
        ramp = _clipped(n, (k - low) / (high - low))
        found.append(ramp * theta / n(p["factor"]) + (1 - ramp) * theta)
    return found


def _llama3(n: Numbers, p: Mapping[str, Any], _length: int) -> Row:
    """Llama 3.1's released code, by its three cases of wavelengths."""
    low, high, factor = (n(p[name]) for name in ("low", "high", "factor"))
    found = []
    for theta in geometric(n, p["rotary_dim"], p["base"]):
        wavelength = 2 * n.pi() / theta
        if wavelength * high < p["trained"]:
            found.append(theta)
        elif wavelength * low > p["trained"]:
            found.append(theta / factor)
        else:
            smooth = (p["trained"] / wavelength - low) / (high - low)
            found.append((1 - smooth) * theta / factor + smooth * theta)
    return found


def _longrope(n: Numbers, p: Mapping[str, Any], length: int) -> Row:
    """Ding et al. 2024 (2402.13753) §3: each pair over its own factor, from one list or the other."""
    factors = p["long"] if length > p["trained"] else p["short"]
    thetas = geometric(n, p["rotary_dim"], p["base"])
    return [theta / n(each) for theta, each in zip(thetas, factors, strict=True)]


def _proportional(n: Numbers, p: Mapping[str, Any], _length: int) -> Row:
    """Barbero et al. 2024 (2410.06205): the first share of the pairs turns, the others stand still."""
    thetas = geometric(n, p["rotary_dim"], p["base"])
    turning = math.floor(p["share"] * p["rotary_dim"] / 2)
    return [theta / n(p["factor"]) if k < turning else n(0) for k, theta in enumerate(thetas)]


def _clipped(n: Numbers, x: Any) -> Any:
    return n(0) if x < 0 else n(1) if x > 1 else x


_SCHEMES = {
    "none": _none,
    "plain": _plain,
    "whole exponents": _whole_exponents,
    "linear": _linear,
    "ntk": _ntk,
    "dynamic": _dynamic,
    "yarn": _yarn,
    "llama3": _llama3,
    "longrope": _longrope,
    "proportional": _proportional,
}
