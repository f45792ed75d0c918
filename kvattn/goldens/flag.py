"""Flags: why golden cases exist, what kind of bug they catch, and where it happened."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """Why a case exists, for many cases at once.

    Attributes
    ----------
    name
        In one word, such as ``SoftcapAfterMask``.
    bug_type
        One of `BUG_TYPES`.
    description
        What an implementation that fails such a case does.
    links
        Where it happened: addresses, or ``owner/repository#7`` for an issue or pull request on GitHub.

    Examples
    --------
    >>> Flag("WindowBound", "CONVENTION", "A window that counts W keys beside the query's own.").links
    ()
    """

    name: str
    bug_type: str
    description: str
    links: tuple[str, ...] = ()


BUG_TYPES = (
    "BASIC",
    "EDGE_CASE",
    "MASKING",
    "LAYOUT",
    "POSITION",
    "CACHE_STATE",
    "NUMERIC_RANGE",
    "CONVENTION",
    "KNOWN_BUG",
)
"""What a flag may be about."""
