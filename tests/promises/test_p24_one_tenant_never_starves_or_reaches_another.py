"""P24: what one session does stops no other. That no agent reaches another is in security/test_agent_socket."""

from __future__ import annotations

from tests.promises.host import Host, eventually


def test_p24_what_one_session_floods_with_stops_no_other(host: Host):
    """Files that no object can hold, and a rule that a regular expression would never end with."""
    host.start()
    host.write(".cachesyncignore", "*a*a*a*a*a*a*a*a*a*a*a*a*b\n", "flood")
    for number in range(8):
        with open(host.root / "flood" / f"sparse{number}", "wb") as file:
            file.truncate(1024**4)
        host.write("a" * 200 + str(number), "x", "flood")
    for number in range(2000):
        host.write(f"many/f{number}", "x" * 100, "flood")
    host.write("small.txt", "worker", "s2")
    eventually(lambda: host.objects("s2") == host.local("s2"), 60)
    assert host.flush("s2").code == 0
