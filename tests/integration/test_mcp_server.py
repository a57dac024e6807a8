"""The MCP server: each tool over a real store, what an agent may not do, and the ways to reach it."""

import argparse
import base64
import contextlib
import functools
import io
import json
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass

import httpx2
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from cachesync.cli.connect import connect
from cachesync.model.address import parse
from cachesync.model.errors import UsageError
from cachesync.programs.mcp_server.answers import MOST_LISTED, MOST_READ, content
from cachesync.programs.mcp_server.build import build_server
from cachesync.programs.mcp_server.scope import Scope
from cachesync.programs.mcp_server.shared import Shared
from tests.promises.host import Host
from tests.servers import closed_port


@dataclass
class Agent:
    """Calls tools over one connection, which lasts as long as the test."""

    client: Client
    portal: BlockingPortal

    def call(self, tool, **arguments):
        """The whole result."""
        return self.portal.call(self.client.call_tool, tool, arguments)

    def ask(self, tool, **arguments):
        """The answer; an error fails the test."""
        result = self.call(tool, **arguments)
        assert not result.is_error, result.content[0].text
        assert json.loads(result.content[0].text) == result.structured_content
        return result.structured_content

    def refused(self, tool, **arguments):
        """The text of the error."""
        result = self.call(tool, **arguments)
        assert result.is_error, result.structured_content
        assert result.structured_content is None
        return result.content[0].text

    def tools(self):
        return {tool.name: tool for tool in self.portal.call(self.client.list_tools).tools}


@pytest.fixture
def connected():
    """What makes an agent of a server: one in this process, a program to start, a URL or a transport."""
    with contextlib.ExitStack() as stack:
        portal = stack.enter_context(start_blocking_portal())

        def connected(server):
            return Agent(stack.enter_context(portal.wrap_async_context_manager(Client(server))), portal)

        yield connected


@pytest.fixture
def reach(tmp_path):
    """What finds the verbs; no daemon runs."""

    (tmp_path / "root").mkdir()

    def reach(**settings):
        given = {"root": f"{tmp_path}/root", "store": f"file://{tmp_path}/store"} | settings
        options = argparse.Namespace(command="mcp", **{f"setting_{name}": value for name, value in given.items()})
        return functools.partial(connect, options)

    return reach


@pytest.fixture
def agent(connected, reach):
    """An agent of the session s1."""
    return connected(build_server(reach(), Scope("s1")))


@pytest.fixture
def host(tmp_path, seaweed, bucket):
    seaweed.make_bucket(bucket)
    host = Host(folder=tmp_path / "host", server=seaweed, bucket=bucket)
    yield host
    host.close()


def stdio(host, *words):
    arguments = ["-m", "cachesync", "mcp", *words]
    return StdioServerParameters(command=sys.executable, args=arguments, env=host.env, cwd=host.folder)


# -- the tools ---------------------------------------------------------------------------------------------------------


def test_the_seeds_tools_have_the_seeds_schemas_and_answers(agent, tmp_path):
    tools = agent.tools()
    write = tools["write_artifact"]
    assert write.description.startswith("Write artifact to session storage (S3)")
    assert write.input_schema["required"] == ["path", "content"]
    properties = write.input_schema["properties"]
    assert (properties["path"]["type"], properties["content"]["type"]) == ("string", "string")
    assert properties["path"]["description"] == "Artifact path (e.g., terraform/main.tf)"
    assert properties["metadata"]["type"] == "object"
    assert properties["metadata"]["properties"] == {"artifactType": {"type": "string"}, "version": {"type": "number"}}
    assert tools["read_artifact"].input_schema["required"] == ["path"]
    assert tools["read_artifact"].description.startswith("Read artifact from session storage (S3)")

    told = agent.ask(
        "write_artifact",
        path="terraform/main.tf",
        content="# ä\n",
        metadata={"artifactType": "terraform", "version": 3},
    )
    assert told == {"success": True, "s3Uri": f"file://{tmp_path}/store/sessions/s1/terraform/main.tf"}
    assert (tmp_path / "store/sessions/s1/terraform/main.tf").read_text("utf-8") == "# ä\n"
    assert agent.ask("read_artifact", path="terraform/main.tf") == {"content": "# ä\n"}


def test_every_tool_says_what_it_answers_and_whether_it_only_looks(agent):
    tools = agent.tools()
    assert set(tools) == {
        "write_artifact", "read_artifact", "list_artifacts", "artifact_url", "flush_session", "session_status",
        "artifact_history", "restore_artifact",
    }  # fmt: skip
    assert all(tool.output_schema["type"] == "object" for tool in tools.values())
    looking = {name for name, tool in tools.items() if tool.annotations.read_only_hint}
    assert looking == set(tools) - {"write_artifact", "flush_session", "restore_artifact"}


@pytest.mark.parametrize("text", ['{"a": 1}', '["x"]', "null", "12", "", "\r\n\0\u2028🙂"])
def test_content_comes_back_as_it_was_given(agent, text):
    agent.ask("write_artifact", path="a", content=text)
    assert agent.ask("read_artifact", path="a") == {"content": text}


def test_binary_content_travels_as_base64(agent, tmp_path):
    data = bytes(range(256))
    encoded = base64.b64encode(data).decode()
    agent.ask("write_artifact", path="a.bin", content=encoded, encoding="base64")
    assert (tmp_path / "store/sessions/s1/a.bin").read_bytes() == data
    assert agent.ask("read_artifact", path="a.bin") == {"content": encoded, "encoding": "base64"}
    assert "no base64" in agent.refused("write_artifact", path="a.bin", content="!", encoding="base64")
    assert 'use encoding="base64"' in agent.refused("write_artifact", path="a", content="\ud800")


def test_a_big_file_is_read_in_pieces(agent):
    text = "0123456789äöü" * 100_000
    agent.ask("write_artifact", path="big.txt", content=text)
    said = agent.refused("read_artifact", path="big.txt")
    assert f"length={MOST_READ}" in said
    assert "artifact_url" in said
    pieces = [agent.ask("read_artifact", path="big.txt", length=300_001)]
    while "nextOffset" in pieces[-1]:
        pieces.append(agent.ask("read_artifact", path="big.txt", offset=pieces[-1]["nextOffset"], length=300_001))
    assert "".join(piece["content"] for piece in pieces) == text
    assert {piece["size"] for piece in pieces} == {len(text.encode())}
    assert len({piece["version"] for piece in pieces}) == 1
    assert agent.ask("read_artifact", path="big.txt", offset=10**9)["content"] == ""
    assert "1048576" in agent.refused("read_artifact", path="big.txt", length=MOST_READ + 1)


def test_pieces_of_text_and_of_what_is_none():
    data = "aäb".encode()
    assert content(data, 0, 4) == {"content": "aäb"}
    assert content(data[:2], 0, 4) == {"content": "a", "offset": 0, "size": 4, "nextOffset": 1}
    assert content(data[1:], 1, 4) == {"content": "äb", "offset": 1, "size": 4}
    cut = content(data[1:2], 1, 4)  # no character fits
    assert (cut["encoding"], cut["nextOffset"]) == ("base64", 2)
    assert content(data[:2], 0, 2)["encoding"] == "base64"  # the end of the file is no end of a piece
    assert content(b"", 0, 0) == {"content": ""}


def test_listing_by_prefix_and_in_pages(agent, tmp_path):
    assert agent.ask("list_artifacts") == {"artifacts": []}
    for path in ("artifacts/terraform/main.tf", "artifacts/terraform/vars.tf", "artifacts/a.md", "logs/agent.log"):
        agent.ask("write_artifact", path=path, content="x")

    def paths(**arguments):
        return [row["path"] for row in agent.ask("list_artifacts", **arguments)["artifacts"]]

    assert paths() == ["artifacts/a.md", "artifacts/terraform/main.tf", "artifacts/terraform/vars.tf", "logs/agent.log"]
    assert paths(prefix="artifacts/terraform/") == ["artifacts/terraform/main.tf", "artifacts/terraform/vars.tf"]
    assert paths(prefix="artifacts/terraform/m") == ["artifacts/terraform/main.tf"]
    assert paths(prefix="artifacts/t") == ["artifacts/terraform/main.tf", "artifacts/terraform/vars.tf"]
    assert paths(prefix="nothing/") == []
    many = tmp_path / "root/s1/many"
    many.mkdir(parents=True)
    for number in range(MOST_LISTED + 5):
        (many / f"{number:04}").touch()
    first = agent.ask("list_artifacts", prefix="many/")
    assert len(first["artifacts"]) == MOST_LISTED
    rest = agent.ask("list_artifacts", prefix="many/", after=first["next"])
    assert "next" not in rest
    assert [row["path"] for row in rest["artifacts"]] == [f"many/{number}" for number in range(1000, 1005)]


def test_an_argument_that_a_tool_does_not_have_is_refused(agent):
    told = agent.refused("write_artifact", path="a", content="x", sesion="s2", mode="w")
    assert "no argument 'sesion', 'mode'; it has path, content, metadata, encoding, session" in told
    assert agent.ask("list_artifacts") == {"artifacts": []}


def test_flush_stores_what_programs_wrote_and_status_says_so(agent, tmp_path):
    session = tmp_path / "root/s1"
    (session / "artifacts").mkdir(parents=True)
    (session / "artifacts/report.md").write_text("# Done")
    assert agent.ask("session_status")["safeToKill"] in {False, True}
    told = agent.ask("flush_session", timeout=30)
    assert (told["stored"], told["files"], told["failed"], told["pending"]) == (True, 1, [], [])
    assert told["summary"].startswith("stored")
    assert (tmp_path / "store/sessions/s1/artifacts/report.md").read_text() == "# Done"
    status = agent.ask("session_status")
    assert (status["safeToKill"], status["dirty"], status["files"]) == (True, 0, 1)
    agent.ask("write_artifact", path="artifacts/report.md", content="# New")
    assert (session / "artifacts/report.md").read_text() == "# New"


def test_a_flush_that_cannot_store_says_so(agent, tmp_path):
    session = tmp_path / "root/s1"
    session.mkdir(parents=True)
    deep = session.joinpath(*["d" * 200] * 6)
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    told = agent.ask("flush_session", timeout=30)
    assert told["stored"] is False
    assert told["summary"].startswith("NOT stored")
    assert "limit" in told["failed"][0]["error"]


def test_a_session_that_is_only_in_the_store_is_stored(agent, tmp_path):
    agent.ask("write_artifact", path="a", content="123")
    assert not (tmp_path / "root/s1").exists()
    told = agent.ask("flush_session")
    assert (told["stored"], told["files"], told["bytes"]) == (True, 1, 3)
    assert agent.ask("session_status")["safeToKill"] is True


# -- what an agent may name --------------------------------------------------------------------------------------------

OUTSIDE = [
    "../s2/a", "/etc/passwd", "a/../../s2/a", "a//b", "./a", "", "..", "a\0b", "cachesync://s2/a", "cachesync://",
    "cachesync://s1/../s2/a", "cachesync://projects/p/a", "cachesync://templates/a", "cachesync://s1",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out_of_the_session(agent, reach, path, tmp_path):
    with reach()() as verbs:
        for place in ("s2/a", "projects/p/a", "templates/a"):
            verbs.artifacts.put(parse(place), io.BytesIO(b"secret"))
    before = sorted(tmp_path.rglob("*"))
    for tool, more in (
        ("read_artifact", {}),
        ("write_artifact", {"content": "x"}),
        ("artifact_url", {}),
        ("artifact_history", {}),
        ("restore_artifact", {}),
    ):
        said = agent.refused(tool, path=path, **more)
        assert "secret" not in said
    assert [found for found in sorted(tmp_path.rglob("*")) if found not in before and "store" in found.parts] == []


@pytest.mark.parametrize(
    "prefix", ["../", "../s2/", "/", "/etc/", "a/../../", "a//", "cachesync://", "cachesync://s2/"]
)
def test_no_prefix_leads_out_of_the_session(agent, prefix):
    said = agent.refused("list_artifacts", prefix=prefix)
    assert "does not name a file inside its session" in said or "only the artifacts of the session" in said


def test_our_own_folder_is_not_the_agents(agent):
    assert ".cachesync" in agent.refused("write_artifact", path=".cachesync/manifest.json", content="{}")


def test_a_bound_server_serves_no_other_session(agent):
    agent.ask("write_artifact", path="a", content="x", session="s1")
    for tool, arguments in (("read_artifact", {"path": "a"}), ("list_artifacts", {}), ("flush_session", {})):
        said = agent.refused(tool, session="s2", **arguments)
        assert "bound to the session 's1'" in said
        assert "leave 'session' out" in said


def test_an_unbound_server_wants_to_be_told(reach, connected):
    agent = connected(build_server(reach(), Scope()))
    said = agent.refused("write_artifact", path="a", content="x")
    assert "no session was named" in said
    assert "call the tool again with 'session'" in said
    agent.ask("write_artifact", path="a", content="one", session="s1")
    agent.ask("write_artifact", path="a", content="two", session="s2")
    assert agent.ask("read_artifact", path="a", session="s1") == {"content": "one"}
    for name in ("..", "a/b", ".cachesync", "", "projects", "templates"):
        agent.refused("read_artifact", path="p/a", session=name)
    assert "no such session" in agent.refused("list_artifacts", session="s3")


def test_projects_are_served_where_that_was_allowed(reach, connected):
    agent = connected(build_server(reach(), Scope("s1", projects=True)))
    path = "cachesync://projects/p1/foundation.md"
    agent.ask("write_artifact", path=path, content="base")
    assert agent.ask("read_artifact", path=path) == {"content": "base"}
    assert "bound to the session" in agent.refused("read_artifact", path="cachesync://s2/a")
    assert agent.ask("list_artifacts")["artifacts"] == []
    (row,) = agent.ask("list_artifacts", prefix="cachesync://projects/p1/f")["artifacts"]
    assert (row["path"], row["size"]) == (path, 4)
    assert agent.ask("list_artifacts", prefix="cachesync://templates/")["artifacts"] == []
    assert "names no project" in agent.refused("list_artifacts", prefix="cachesync://s2/")


def test_a_session_called_like_another_space_cannot_be_bound():
    with pytest.raises(UsageError, match="another space"):
        Scope("projects")


# -- errors ------------------------------------------------------------------------------------------------------------


def test_an_error_says_the_cause_and_what_to_do(agent):
    agent.ask("write_artifact", path="a", content="x")
    said = agent.refused("read_artifact", path="nothing.md")
    assert "s1/nothing.md'" in said
    assert "list_artifacts shows what there is" in said
    assert "keeps no versions" in agent.refused("artifact_history", path="a")


def test_a_store_that_is_down_is_no_absence(reach, monkeypatch, connected):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    down = reach(store="s3://bucket", endpoint=closed_port())
    agent = connected(build_server(down, Scope("s1")))
    for tool, arguments in (
        ("read_artifact", {"path": "a"}),
        ("list_artifacts", {}),
        ("write_artifact", {"path": "a", "content": "x"}),
    ):
        said = agent.refused(tool, **arguments)
        assert "connect to" in said
        assert "try again later" in said
        assert "secret" not in said


def test_a_defect_shows_no_text_of_its_own(reach, connected):
    @contextlib.contextmanager
    def broken():
        if reach:
            raise RuntimeError("/etc/shadow")
        yield

    said = connected(build_server(broken, Scope("s1"))).refused("read_artifact", path="a")
    assert said == "Error executing tool read_artifact"


def test_calls_at_the_same_time_share_the_root_and_let_it_go():
    opened, closed = [], []

    @contextlib.contextmanager
    def connect():
        opened.append(1)
        yield object()
        closed.append(1)

    shared = Shared(connect)
    with shared.use() as one, shared.use() as two:
        assert one is two
    assert (len(opened), len(closed)) == (1, 1)
    with shared.use() as three:
        assert three is not one
        assert len(closed) == 1


# -- stdio, HTTP, and the daemon ---------------------------------------------------------------------------------------


def test_over_stdio_beside_a_daemon(host, connected):
    host.keep_versions()
    host.start()
    host.write("artifacts/report.md", "from the program")
    agent = connected(stdio(host, "--session", "s1"))
    assert agent.ask("flush_session", timeout=30)["stored"] is True
    assert host.object("artifacts/report.md") == b"from the program"
    host.path("link").symlink_to("/etc/passwd")
    assert "root:" not in agent.refused("read_artifact", path="link")
    told = agent.ask(
        "write_artifact", path="artifacts/report.md", content="from the agent", metadata={"artifactType": "dashboard"}
    )
    assert told["s3Uri"] == f"s3://{host.bucket}/sessions/s1/artifacts/report.md"
    assert host.path("artifacts/report.md").read_text() == "from the agent"
    assert host.object("artifacts/report.md") == b"from the agent"
    assert host.head("artifacts/report.md")["Metadata"]["artifacttype"] == "dashboard"
    url = agent.ask("artifact_url", path="artifacts/report.md", expiresIn=60)["url"]
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"from the agent"
    versions = agent.ask("artifact_history", path="artifacts/report.md")["versions"]
    assert [version["latest"] for version in versions] == [True, False]
    agent.ask("restore_artifact", path="artifacts/report.md", versionId=versions[1]["versionId"])
    assert agent.ask("read_artifact", path="artifacts/report.md") == {"content": "from the program"}
    assert host.stop() == 0
    assert agent.ask("read_artifact", path="artifacts/report.md") == {"content": "from the program"}


def test_where_there_is_no_root_artifacts_still_are_and_nothing_is_called_flushed(host, connected):
    host.root.rmdir()
    agent = connected(stdio(host, "--session", "s1"))
    agent.ask("write_artifact", path="a", content="no root here")
    assert host.object("a") == b"no root here"
    assert agent.ask("read_artifact", path="a") == {"content": "no root here"}
    for tool in ("flush_session", "session_status"):
        assert "no sessions directory" in agent.refused(tool)
    assert not host.root.exists()


def test_stdio_carries_nothing_but_the_protocol(host):
    ask = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        },
    }
    done = subprocess.run(
        [sys.executable, "-m", "cachesync", "--log-level", "debug", "mcp"],
        input=json.dumps(ask).encode() + b"\n",
        env=host.env | {"CACHESYNC_SESSION": "s1"},
        cwd=host.folder,
        capture_output=True,
        timeout=30,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["id"] for line in lines] == [1]
    assert "flush_session" in json.loads(lines[0])["result"]["instructions"]


def test_the_session_comes_from_the_environment_and_must_be_a_name(host):
    assert host.run("mcp", "--session", "../x").code == 2
    done = host.run("mcp", env={"CACHESYNC_SESSION": "projects"})
    assert done.code == 2
    assert "another space" in done.err


@contextlib.contextmanager
def served(host, *words, **env):
    """A server on HTTP, and its URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cachesync", "mcp", "--http", "127.0.0.1:0", "--session", "s1", *words],
        env=host.env | env,
        cwd=host.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.stdout, process.stderr
    assert out is not None
    assert err is not None
    try:
        line = err.readline()
        assert line.startswith("serving MCP at http://127.0.0.1:"), line
        told = err.readline()
        assert "Authorization: Bearer TOKEN" in told
        assert env.get("CACHESYNC_HTTP_TOKEN", "none") not in told
        yield line.split()[-1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert out.read() == ""
    finally:
        process.kill()
        process.wait()
        out.close()
        err.close()


def post(url, body=None, **headers):
    """The status of a bare request."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}} if body is None else body
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **headers}
    request = urllib.request.Request(url, data, given, method="POST")
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@contextlib.asynccontextmanager
async def with_token(url, token):
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(headers=headers) as client, streamable_http_client(url, http_client=client) as pair:
        yield pair


TOKEN = "let-me-in-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def test_over_http_without_a_configured_token_one_is_made(host, connected):
    """For its owner alone, also on loopback, and another than the control API's: it serves one session."""
    with served(host) as url:
        path = host.state / "mcp.token"
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        token = path.read_text().strip()
        assert post(url) == 401
        assert post(url, Authorization="Bearer " + "A" * 43) == 401
        agent = connected(with_token(url, token))
        agent.ask("write_artifact", path="a", content="over HTTP")
        assert agent.ask("read_artifact", path="a") == {"content": "over HTTP"}
    assert host.object("a") == b"over HTTP"
    assert not (host.state / "http.token").exists()
    with served(host):
        assert path.read_text().strip() == token, "the same after a restart"


def test_over_http_with_a_token(host, connected):
    with served(host, CACHESYNC_HTTP_TOKEN=TOKEN) as url:
        assert post(url) == 401
        assert post(url, Authorization="Bearer wrong") == 401
        assert post(url, Authorization=f"Basic {TOKEN}") == 401
        agent = connected(with_token(url, TOKEN))
        agent.ask("write_artifact", path="a", content="with a token")
    assert host.object("a") == b"with a token"


def test_over_http_only_its_own_pages_and_names(host):
    with served(host, CACHESYNC_HTTP_TOKEN=TOKEN, CACHESYNC_HTTP_NAMES="agents.example") as url:
        here = url.removeprefix("http://").removesuffix("/mcp")
        port = here.rpartition(":")[2]
        for origin in (
            "http://evil.example",
            "http://localhost:3000",
            "http://127.0.0.1:1",
            "null",
            f"http://localhost:{port}",
        ):
            assert post(url, Origin=origin, **BEARER) == 403, origin
        for name in ("evil.example", f"evil.example:{port}", "localhost.", "10.0.0.1"):
            assert post(url, Host=name, **BEARER) == 403, name
        for own in ({}, {"Origin": f"http://{here}"}, {"Host": "agents.example", "Origin": "https://agents.example"}):
            assert post(url, **own, **BEARER) in (200, 400), own  # 400 is the protocol's own: no session was begun


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"id": 1e999}', b"\xff", b"9" * 6000, b'"\\ud800"'], ids=lambda b: repr(b[:9])
)
def test_over_http_what_is_no_request_is_refused(host, body):
    with served(host, CACHESYNC_HTTP_TOKEN=TOKEN) as url:
        assert 400 <= post(url, body, **BEARER) < 500
        assert 400 <= post(url, body) < 500


@pytest.mark.parametrize("http", ["127.0.0.1:0", "0.0.0.0:0"])
def test_over_http_a_short_token_is_refused(host, http):
    done = host.run("mcp", "--http", http, env={"CACHESYNC_HTTP_TOKEN": "a" * 15})
    assert done.code == 2
    assert "http_token" in done.err
    assert "openssl rand -hex 32" in done.err


def test_over_http_without_a_root_the_token_has_to_be_given(host):
    done = host.run("mcp", "--http", "127.0.0.1:0", env={"CACHESYNC_ROOT": str(host.folder / "none")})
    assert done.code == 2
    assert "CACHESYNC_HTTP_TOKEN" in done.err


def test_an_address_that_is_taken_is_one_line(host):
    with served(host) as url:
        done = host.run("mcp", "--http", url.removeprefix("http://").removesuffix("/mcp"))
    assert done.code == 1
    assert "in use" in done.err
