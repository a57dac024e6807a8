"""S3 is spoken in two ways, ours and botocore's: both keep the contract."""

import pytest

from tests.conftest import KINDS
from tests.servers import by_botocore


@pytest.fixture(params=[*KINDS, "seaweed by botocore", "moto by botocore"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    kind, _, way = request.param.partition(" by ")
    if way:
        by_botocore(monkeypatch)
    return str(kind)
