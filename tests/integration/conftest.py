"""What the integration tests share for a whole session, because it takes seconds to start."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.props.real_chain import RealChain, real_chain


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealChain]:
    """Real Kafka, Connect and Debezium out of Maven Central; skipped where that is out of reach."""
    with real_chain(tmp_path_factory.mktemp("chain")) as ready:
        yield ready
