"""What scores start from: nothing, or a corrupted prompt."""

from __future__ import annotations

import pytest


@pytest.fixture(params=[False, True], ids=["from zero", "from corrupted"])
def contrastive(request: pytest.FixtureRequest) -> bool:
    return request.param
