"""What several tests of a run begin with: the small stack."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.props.small_stack import SmallStack, small_stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[SmallStack]:
    """The small stack, its old generation trading."""
    with small_stack(tmp_path) as made:
        yield made
