"""What kvattn raises: one small hierarchy under `ValueError`.

Every message is one sentence that names the argument, says what was expected and says what came.
It is raised before any arithmetic, and whatever the caller already held stays valid.
"""


class KvattnError(ValueError):
    """Any input that kvattn refuses; catch this to catch them all.

    >>> issubclass(KvattnError, ValueError)
    True
    """


class ShapeError(KvattnError):
    """An array whose rank or sizes do not fit the others.

    >>> issubclass(ShapeError, KvattnError)
    True
    """


class DtypeError(KvattnError):
    """An array whose element type cannot be used as it is.

    >>> issubclass(DtypeError, KvattnError)
    True
    """


class ArgumentError(KvattnError):
    """A number, flag or object outside its legal range.

    >>> issubclass(ArgumentError, KvattnError)
    True
    """


class PositionError(KvattnError):
    """Positions that are out of order, repeated or missing where that matters.

    >>> issubclass(PositionError, KvattnError)
    True
    """


class RollbackError(KvattnError):
    """A cache asked to return to a length that it no longer remembers.

    >>> issubclass(RollbackError, KvattnError)
    True
    """


class MissingExtraError(KvattnError, ImportError):
    """An optional package that the call needs and that is not installed.

    >>> issubclass(MissingExtraError, ImportError)
    True
    """


class DamagedError(KvattnError):
    """A recorded file that is not what its checksum promises.

    >>> issubclass(DamagedError, KvattnError)
    True
    """


class UndecidedError(KvattnError):
    """Numbers known to within an interval that does not answer the question asked of them.

    >>> issubclass(UndecidedError, KvattnError)
    True
    """
