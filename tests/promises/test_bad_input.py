"""Bad input (issue 2): one clear line, the right exit code, no traceback, and nothing lost."""

from __future__ import annotations

import shutil

import pytest

from tests.promises.host import Host, Outcome


def _refused(done: Outcome, *words: str) -> None:
    assert done.code == 2, done
    assert done.out == ""
    assert len(done.err.strip().splitlines()) == 1, done.err
    for word in words:
        assert word in done.err, done.err


WRONG = [
    ("CACHESYNC_TRANSFERS", "many"),
    ("CACHESYNC_SETTLE", "-1s"),
    ("CACHESYNC_STORE", "bucket-without-scheme"),
    ("CACHESYNC_STORE", "s3://UPPER_case"),
    ("S3_ENDPOINT", "http://example.com:9000"),
    ("S3_ENDPOINT", "nonsense"),
]


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [(["run"], *wrong) for wrong in WRONG]
    + [([*words], *WRONG[0]) for words in (["flush", "s1"], ["status"], ["config"])],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_a_wrong_setting_is_refused_in_one_line(host: Host, command: list[str], name: str, value: str):
    host.write("a.txt", "1")
    _refused(host.run(*command, env={name: value}), name)
    assert not host.state.exists()


def test_a_wrong_file_of_settings_is_refused_in_one_line(host: Host):
    file = host.folder / "cachesync.toml"
    file.write_text("transferz = 3\n")
    _refused(host.run("flush", "s1"), "transferz", "transfers")
    file.write_text("transfers = [1]\n")
    _refused(host.run("flush", "s1"), "transfers", "cachesync.toml")
    file.write_text("transfers = \n")
    _refused(host.run("flush", "s1"), "cachesync.toml")


def test_a_wrong_flag_is_refused_in_one_line(host: Host):
    _refused(host.run("run", "--transfers", "0"), "transfers", "--transfers")
    _refused(host.run("run", "--nonsense"), "nonsense")
    _refused(host.run("nonsense"), "nonsense")
    _refused(host.run())


@pytest.mark.parametrize("command", [["run"], ["flush", "s1"]], ids=lambda words: words[0])
def test_a_root_that_is_a_file_is_refused(host: Host, command: list[str]):
    shutil.rmtree(host.root)
    host.root.write_text("a file")
    _refused(host.run(*command), str(host.root))
    assert host.root.read_text() == "a file"


def test_a_root_that_is_missing_is_made_by_run_only(host: Host):
    shutil.rmtree(host.root)
    _refused(host.run("flush", "s1"), str(host.root))
    assert not host.root.exists()
    host.start()
    assert host.root.is_dir()


@pytest.mark.parametrize("command", [["run"], ["flush", "s1"]], ids=lambda words: words[0])
def test_a_root_that_is_not_writable_is_refused(humble: Host, command: list[str]):
    humble.root.chmod(0o500)
    try:
        _refused(humble.run(*command), str(humble.root))
    finally:
        humble.root.chmod(0o700)


def test_a_state_folder_that_is_a_file_is_refused(host: Host):
    host.state.write_text("a file")
    _refused(host.run("run"), str(host.state))
    _refused(host.run("flush", "s1"), str(host.state))


def test_a_plain_http_endpoint_elsewhere_needs_a_word(host: Host):
    done = host.run("config", env={"S3_ENDPOINT": "http://example.com:9000", "CACHESYNC_ALLOW_HTTP": "true"})
    assert done.code == 0
    for endpoint in ("http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1", "https://example.com"):
        assert host.run("config", env={"S3_ENDPOINT": endpoint}).code == 0
    for endpoint in ("http://127.0.0.1.example.com", "http://10.0.0.1:9000", "http://localhost.example.com"):
        _refused(host.run("config", env={"S3_ENDPOINT": endpoint}), "allow_http")


def test_a_root_that_was_made_for_another_store_is_refused(host: Host):
    host.write("a.txt", "1")
    host.stored()
    other = {"CACHESYNC_STORE": f"s3://{host.bucket}-other"}
    _refused(host.run("flush", "s1", env=other), host.bucket)
    _refused(host.run("run", env=other), host.bucket)
    host.stored()


def test_nothing_configured_still_works_and_says_so(host: Host):
    for name in ("CACHESYNC_STORE", "S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del host.env[name]
    host.env["XDG_DATA_HOME"] = str(host.folder / "data")
    host.start()
    host.write("a.txt", "1")
    host.stored()
    assert "file://" in host.said()
    assert "nothing is configured" in host.said()
    (found,) = (host.folder / "data").rglob("sessions/s1/a.txt")
    assert found.read_text() == "1"


def test_errors_are_json_when_asked_for(host: Host):
    done = host.run("flush", "no such", "--json")
    assert done.code == 2
    assert done.json["error"]["exit_code"] == 2
    done = host.run("flush", "unknown", "--json")
    assert done.code == 3
    assert done.json["error"]["kind"] == "NoSuchSession"
