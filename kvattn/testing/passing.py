"""Fail a test with the report of a check: `must_pass`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvattn.testing.checking import Report


def must_pass(target: Any, *, known: tuple[str, ...] = (), **options: Any) -> "Report":
    """Check a target; fail on any fault that is not known, and on a known one that is gone.

    Parameters
    ----------
    target
        As in `kvattn.testing.check`, whose other arguments are ``options``.
    known
        Fault classes that it is known to have, such as ``("causal-align",)``.

    Returns
    -------
    Report
        What was found; conventions do not fail.

    Raises
    ------
    kvattn.testing.calls.DisagreementError
        With the report for a message.

    Examples
    --------
    >>> import kvattn
    >>> must_pass(kvattn.attention, cases=8).verdict
    'pass'
    >>> must_pass(lambda q, k, v: kvattn.attention(q, k, v, scale=1.0), known=("scale",), cases=8).verdict
    'fault'
    """
    __tracebackhide__ = True
    from kvattn.testing.calls import DisagreementError
    from kvattn.testing.checking import check

    report = check(target, **options)
    found = {finding.fault_class for finding in report.findings if finding.kind == "fault"}
    if found - set(known):
        raise DisagreementError(str(report))
    gone = sorted(set(known) - found)
    if gone:
        raise DisagreementError(
            f"{report.target} is known for {', '.join(gone)}, and that was not found any more\n{report}"
        )
    return report
