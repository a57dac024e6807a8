"""One daemon that many attacks share, since none of them may harm it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.promises.host import Host, hosts_of
from tests.servers import SeaweedServer


@pytest.fixture(scope="module")
def served(seaweed: SeaweedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A daemon, with a session s1 to attack from and a session s2 that nobody may reach from there."""
    folder = tmp_path_factory.mktemp("served")
    with hosts_of(Host, seaweed, f"security-{folder.parent.name.replace('_', '-')[-40:]}", folder) as make:
        host = make()
        host.write("a", "mine")
        host.write("a", "SECRET of s2", "s2")
        (host.folder / "outside").mkdir()
        (host.folder / "outside" / "secret").write_text("SECRET outside")
        host.start()
        host.stored()
        host.stored("s2")
        yield host
        assert host.stop() in (0, 4)  # 4: a name that was put and cannot be stored
        assert "Traceback" not in host.said()
