"""The pytest plugin: fixtures, ``@kvattn_cases`` and failures that read like a report.

pytest loads it wherever kvattn is installed (entry point group ``pytest11``), so nothing of kvattn that computes, and
no NumPy, is imported before a test asks for it.

`kvattn_check`
    `kvattn.testing.passing.must_pass`: ``kvattn_check(target, known=())`` fails the test with a report.
`kvattn_tally`
    What the test has counted so far, read as a `kvattn.Tally`.
``kvattn_case``
    One recorded case for each that ``@kvattn_cases(...)`` selects; the arguments are those of `kvattn.goldens.cases`.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from kvattn.testing.passing import must_pass

if TYPE_CHECKING:
    from kvattn.counting import Recorder
    from kvattn.testing.checking import Report

MARKER = "kvattn_cases(**selection): run the test once for each golden case that kvattn.goldens.cases(**selection) has"


def kvattn_cases(**selection: Any) -> pytest.MarkDecorator:
    """Run a test that asks for ``kvattn_case`` once for each selected golden case.

    Parameters
    ----------
    **selection
        The arguments of `kvattn.goldens.cases`.

    Examples
    --------
    >>> MARKER.startswith(kvattn_cases.__name__)
    True
    """
    mark: pytest.MarkDecorator = pytest.mark.kvattn_cases(**selection)
    return mark


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker.

    >>> MARKER.partition(":")[0]
    'kvattn_cases(**selection)'
    """
    config.addinivalue_line("markers", MARKER)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that asks for ``kvattn_case`` one run for each case that its marker selects.

    Raises
    ------
    pytest.UsageError
        A marker whose selection is wrong or empty, or a test that has the fixture without the marker.

    Examples
    --------
    >>> callable(pytest_generate_tests)
    True
    """
    if "kvattn_case" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("kvattn_cases")
    if marker is None:
        raise pytest.UsageError(f"{metafunc.definition.nodeid} must have @kvattn_cases where it asks for kvattn_case")
    from kvattn.errors import KvattnError
    from kvattn.goldens import cases

    try:
        selected = cases(**marker.kwargs)
    except (KvattnError, TypeError) as error:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: {error}") from error
    if not selected:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: no golden case has {marker.kwargs}")
    metafunc.parametrize("kvattn_case", selected, ids=[case.name for case in selected])


@pytest.fixture
def kvattn_check() -> Callable[..., "Report"]:
    """`must_pass`, which fails the test with the report.

    >>> type(kvattn_check).__name__
    'FixtureFunctionDefinition'
    """
    return must_pass


@pytest.fixture
def kvattn_tally() -> "Iterator[Recorder]":
    """What has been counted since the test began: reads as a `kvattn.Tally`.

    >>> type(kvattn_tally).__name__
    'FixtureFunctionDefinition'
    """
    from kvattn.counting import counting

    with counting() as tally:
        yield tally
