"""What a target raises, or would not take.

The bench raises these in place of what the target raised, so that a reading can go on without it.
"""


class Refused(Exception):  # noqa: N818 - not an error of kvattn's: the target raised
    """The target raised.

    >>> str(Refused("ValueError: no"))
    'ValueError: no'
    """


class Misshapen(Refused):
    """The target returned something of another shape.

    >>> issubclass(Misshapen, Refused)
    True
    """


class Untaken(Refused):
    """The sizes are none that the target takes: it was not called.

    >>> issubclass(Untaken, Refused)
    True
    """


def told(error: Exception) -> str:
    """Say an exception on one line, whatever its message is.

    >>> told(ValueError("no"))
    'ValueError: no'
    """
    try:
        lines = str(error).splitlines()
    except Exception:  # noqa: BLE001 - the target's own exception may be broken too
        lines = ["its message cannot be read"]
    return f"{type(error).__name__}: {lines[0] if lines else 'without a message'}"[:160]
