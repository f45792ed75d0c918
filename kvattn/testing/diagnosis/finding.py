"""What a check says: one finding is one named difference between a target and the contract.

Class names are those that attention code is known to get wrong ("causal-align", "gqa-map", "scale",
"softcap", …); a difference that fits none of them is "unclassified" and is described by what was
read out of the target.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["convention", "fault"]
"""A ``convention`` is another legal choice, by name; a ``fault`` breaks the contract."""


@dataclass(frozen=True)
class Finding:
    """One named difference.

    Attributes
    ----------
    fault_class
        Name of the class, such as ``"window-off-by-one"``.
    kind
        ``"convention"`` or ``"fault"``.
    parameters
        What was fitted: strings, numbers, booleans and lists of them.
    detail
        One sentence.
    reproduce
        One line of Python that prints what the target gives and what was expected.

    Examples
    --------
    >>> Finding("scale", "fault", {"rule": "1", "factor": 4.0}, "The scores are not scaled.", "").fault_class
    'scale'
    """

    fault_class: str
    kind: Kind
    parameters: Mapping[str, Any]
    detail: str
    reproduce: str

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON can hold it; a number that JSON has no sign for becomes a string.

        >>> Finding("empty-row", "fault", {"out": math.nan}, "NaN.", "f()").as_dict()["parameters"]
        {'out': 'nan'}
        """
        return {
            "class": self.fault_class,
            "kind": self.kind,
            "parameters": plain(dict(self.parameters)),
            "detail": self.detail,
            "reproduce": self.reproduce,
        }


def plain(value: Any) -> Any:
    """Turn NumPy scalars into Python's, tuples into lists, and NaN or infinity into strings.

    >>> plain({"a": (1, float("-inf"))})
    {'a': [1, '-inf']}
    """
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value
