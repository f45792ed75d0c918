"""The page of the caches of others is what tests/interop/cache_table.py says, which the peers' tests execute."""

from pathlib import Path

from kvattn.testing.conformance import FAULTS
from tests.interop.cache_table import COLUMNS, FAULT, REMARKS, ROWS, H, page

PAGE = Path(__file__).parents[2] / "docs" / "explain" / "caches-of-others.md"


def test_the_page_is_up_to_date() -> None:
    """To write it again: ``python -c "from tests.interop.test_caches_of_others import *; PAGE.write_text(page())"``."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_cell_is_known_and_every_remark_has_a_cell() -> None:
    used = set()
    for row in ROWS:
        assert len(row.cells) == len(COLUMNS)
        used |= {(row.project, name) for cell in row.cells if cell not in (H, "—") for name in cell.split()}
    assert used == {(library, name) for library, remarks in REMARKS.items() for name in remarks}


def test_faults_have_the_names_of_the_machine() -> None:
    for remarks in REMARKS.values():
        for remark in remarks.values():
            assert (remark.kind in FAULTS) == (remark.verdict == FAULT)
