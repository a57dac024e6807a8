"""Settings: where they come from, which source wins, what is refused and in which words (SPEC section 5)."""

import dataclasses
import hashlib
import os
from pathlib import Path

import pytest

from cachesync.config import SETTINGS, Address, Config, load
from cachesync.model.errors import ConfigError, ExitCode

HOME = {"HOME": "/home/ada"}


@pytest.fixture
def read(tmp_path):
    """Loads a configuration in an empty folder, where no file of this machine counts."""

    def load_here(flags=None, environ=None, here="", system="") -> Config:
        for name, text in (("cachesync.toml", here), ("system.toml", system)):
            if text:
                (tmp_path / name).write_text(text)
        return load(flags or {}, HOME | (environ or {}), tmp_path, system_file=tmp_path / "system.toml")

    return load_here


def refusal(read, **given) -> str:
    with pytest.raises(ConfigError) as caught:
        read(**given)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "\n" not in str(caught.value)
    return str(caught.value)


def origin(config: Config, name: str) -> tuple[str, str]:
    return next((row.value, row.source) for row in config.sources() if row.name == name)


def test_nothing_configured_works_with_the_embedded_store(read, tmp_path):
    config = read()
    assert config.root == tmp_path / "sessions"
    assert config.state == tmp_path / "sessions/.cachesync"
    assert config.socket == tmp_path / "sessions/.cachesync/control.sock"
    folder = hashlib.sha256(os.fsencode(config.root)).hexdigest()[:16]
    assert config.store_url == f"file:///home/ada/.local/share/cachesync/stores/{folder}"
    assert config.unchosen == (config.store_url, "file:///home/ada/.local/share/cachesync/store")
    assert config.embedded
    assert origin(config, "store") == (config.store_url, "embedded")
    assert (config.prefix, config.endpoint, config.region, config.sse, config.http) == ("", None, None, None, None)
    assert (config.settle, config.max_dirty_age, config.scan_interval) == (0.01, 5, 60)
    assert (config.transfers, config.bandwidth, config.cache_size) == (32, None, 10 * 2**30)
    assert config.revalidate == 10
    assert (config.drain_timeout, config.delete_settle, config.delete_guard) == (25, 2, 100)
    assert not config.scan_interval_chosen
    assert read(environ={"CACHESYNC_SCAN_INTERVAL": "60s"}).scan_interval_chosen
    assert config.transfer_timeout == 120
    assert (config.path_style, config.allow_http) == (False, False)
    assert {row.source for row in config.sources()} == {"default", "embedded"}


def test_embedded_store_follows_the_data_directory(read, tmp_path):
    config = read(environ={"XDG_DATA_HOME": "/data"})
    assert config.store_url.startswith("file:///data/cachesync/stores/")
    other = read(environ={"XDG_DATA_HOME": "/data"}, flags={"root": "other"})
    assert other.store_url not in config.unchosen, "one folder a root"
    assert other.unchosen[1] == config.unchosen[1]
    assert read(environ={"XDG_DATA_HOME": "relative"}).store_url.startswith("file:///home/ada/")
    config = read(environ={"HOME": ""})
    assert config.store_url == f"file://{tmp_path}/sessions/.cachesync/store"


def test_each_source_beats_the_next(read, tmp_path):
    given = {
        "flags": {"settle": "1s"},
        "environ": {"CACHESYNC_SETTLE": "2s"},
        "here": "settle = '3s'",
        "system": "settle = '4s'",
    }
    expected = [
        ("flags", 1.0, "flag --settle"),
        ("environ", 2.0, "environment CACHESYNC_SETTLE"),
        ("here", 3.0, str(tmp_path / "cachesync.toml")),
        ("system", 4.0, str(tmp_path / "system.toml")),
    ]
    for strongest, value, source in expected:
        config = read(**given)
        assert config.settle == value
        assert origin(config, "settle") == (f"{value:g}s", source)
        del given[strongest]
        (tmp_path / "cachesync.toml").unlink(missing_ok=True)
        (tmp_path / "system.toml").unlink(missing_ok=True)
    assert origin(read(), "settle") == ("10ms", "default")


def test_a_flag_that_is_not_given_and_an_empty_variable_do_not_count(read):
    config = read(flags={"root": None}, environ={"CACHESYNC_ROOT": "", "LOCAL_ARTIFACT_PATH": "/seed"})
    assert config.root == Path("/seed")
    assert origin(config, "root") == ("/seed", "environment LOCAL_ARTIFACT_PATH")


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("CACHESYNC_ROOT", "/r", "root", Path("/r")),
        ("S3_ENDPOINT", "https://s3.example", "endpoint", "https://s3.example"),
        ("AWS_ENDPOINT_URL_S3", "https://s3.example/", "endpoint", "https://s3.example"),
        ("S3_FORCE_PATH_STYLE", "true", "path_style", True),
        ("AWS_REGION", "eu-north-1", "region", "eu-north-1"),
        ("AWS_DEFAULT_REGION", "eu-west-1", "region", "eu-west-1"),
        ("CACHESYNC_ALLOW_HTTP", "yes", "allow_http", True),
        ("CACHESYNC_SSE", "AES256", "sse", "AES256"),
        ("CACHESYNC_STATE", "/state", "state", Path("/state")),
        ("CACHESYNC_CACHE_SIZE", "1.5 GB", "cache_size", 1_500_000_000),
        ("CACHESYNC_CACHE_SIZE", "2K", "cache_size", 2048),
        ("CACHESYNC_CACHE_SIZE", "12B", "cache_size", 12),
        ("CACHESYNC_CACHE_SIZE", "0", "cache_size", 0),
        ("CACHESYNC_REVALIDATE", "0", "revalidate", 0.0),
        ("CACHESYNC_REVALIDATE", "1m", "revalidate", 60.0),
        ("CACHESYNC_UMASK", "027", "umask", 0o27),
        ("CACHESYNC_UMASK", "0", "umask", 0),
        ("CACHESYNC_MAX_DIRTY_AGE", "1m", "max_dirty_age", 60.0),
        ("CACHESYNC_SCAN_INTERVAL", "2h", "scan_interval", 7200.0),
        ("CACHESYNC_TRANSFERS", "8", "transfers", 8),
        ("CACHESYNC_BANDWIDTH", "20MiB/s", "bandwidth", 20 * 2**20),
        ("CACHESYNC_BANDWIDTH", "unlimited", "bandwidth", None),
        ("CACHESYNC_DRAIN_TIMEOUT", "0", "drain_timeout", 0.0),
        ("CACHESYNC_SOCKET", "/run/c.sock", "socket", Path("/run/c.sock")),
        ("CACHESYNC_SOCKET_GROUP", "agents", "socket_group", "agents"),
        ("CACHESYNC_HTTP", "127.0.0.1:8484", "http", Address("127.0.0.1", 8484)),
        ("CACHESYNC_HTTP", "[::1]:0", "http", Address("::1", 0)),
        ("CACHESYNC_HTTP_TOKEN", "letmein", "http_token", "letmein"),
        ("CACHESYNC_CLOUDWATCH", "true", "cloudwatch", True),
        ("CACHESYNC_LOG_LEVEL", "DEBUG", "log_level", "debug"),
    ],
)
def test_environment(read, variable, text, name, value):
    config = read(environ={variable: text})
    assert getattr(config, name) == value
    assert origin(config, name)[1] == f"environment {variable}"


def test_s3_endpoint_beats_the_aws_one(read):
    config = read(environ={"AWS_ENDPOINT_URL_S3": "https://aws", "S3_ENDPOINT": "https://ours"})
    assert config.endpoint == "https://ours"
    assert config.path_style, "servers that are not AWS want the bucket in the path"


@pytest.mark.parametrize(
    ("text", "url", "bucket", "prefix"),
    [
        ("s3://artifacts", "s3://artifacts", "artifacts", ""),
        ("s3://artifacts/", "s3://artifacts", "artifacts", ""),
        ("s3://artifacts//team/x/", "s3://artifacts/team/x", "artifacts", "team/x"),
        ("S3A://artifacts/x", "s3://artifacts/x", "artifacts", "x"),
        ("file:///srv/a b", "file:///srv/a b", None, ""),
        ("memory://", "memory://", None, ""),
        ("gcs://bucket/x", "gcs://bucket/x", None, ""),
    ],
)
def test_store_urls(read, text, url, bucket, prefix):
    config = read(flags={"store": text})
    assert (config.store_url, config.store.bucket, config.prefix) == (url, bucket, prefix)
    assert not config.embedded


def test_artifact_bucket_is_a_bucket_and_weaker_than_the_store(read):
    config = read(environ={"ARTIFACT_BUCKET": "seed-bucket"})
    assert (config.store_url, config.prefix) == ("s3://seed-bucket", "")
    config = read(environ={"ARTIFACT_BUCKET": "seed-bucket", "CACHESYNC_STORE": "memory://"})
    assert config.store_url == "memory://"


@pytest.mark.parametrize(
    "text",
    [
        "bucket", "s3://", "s3://ab", "s3://UPPER", "s3://a..b", "s3://192.168.0.1", "s3://b_d", "s3://-ab",
        "s3://bucket/a//b", "s3://bucket/../x", "file://relative", "file:///", "https://minio:9000/b", "://x", "",
    ],
)  # fmt: skip
def test_store_urls_that_are_refused(read, text):
    words = refusal(read, flags={"store": text})
    assert "'store'" in words
    assert "flag --store" in words
    assert "allowed: " in words


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("settle", "soon"), ("settle", "-1s"), ("settle", "inf"), ("settle", "1e3"), ("settle", "9999d"),
        ("settle", ""), ("settle", "9" * 400), ("scan_interval", "0"), ("transfers", "0"), ("transfers", "3.5"),
        ("transfers", "513"),
        ("transfers", "\u0663"), ("cache_size", "10iB"), ("cache_size", "lots"), ("cache_size", "9" * 400),
        ("bandwidth", "0"), ("path_style", "maybe"), ("sse", "rot13"), ("region", "eu north"), ("root", ""),
        ("http", "8484"), ("http", ":8484"), ("http", "localhost"), ("http", "localhost:99999"), ("http", "a@b:1"),
        ("endpoint", "s3.example"), ("endpoint", "ftp://s3.example"), ("endpoint", "https://"),
        ("endpoint", "https://u:p@s3.example"), ("endpoint", "https://h:port"), ("endpoint", "https://h\n.example"),
        ("log_format", "xml"), ("log_level", "loud"), ("socket_group", "two words"), ("delete_guard", "-1"),
        ("umask", "27"), ("umask", "078"), ("umask", "01777"), ("umask", "u=rwx"), ("umask", "-1"),
    ],
)  # fmt: skip
def test_wrong_values_name_setting_source_and_what_is_allowed(read, name, text):
    words = refusal(read, flags={name: text})
    assert f"'{name}'" in words
    assert SETTINGS[name].flag in words
    assert "allowed: " in words


def test_a_wrong_value_in_a_file_names_the_file(read, tmp_path):
    assert str(tmp_path / "system.toml") in refusal(read, system="transfers = 'many'")


@pytest.mark.parametrize("endpoint", ["http://minio:9000", "HTTP://minio:9000", "http://127.0.0.1.evil.example"])
def test_plain_http_is_for_this_machine_only(read, endpoint):
    assert "allow_http" in refusal(read, flags={"endpoint": endpoint})
    assert read(flags={"endpoint": endpoint, "allow_http": "true"}).endpoint == endpoint


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8333", "http://localhost:1", "http://[::1]:1"])
def test_plain_http_on_loopback_is_fine(read, endpoint):
    assert read(flags={"endpoint": endpoint}).endpoint == endpoint


def test_settings_that_are_wrong_together(read, tmp_path):
    assert "sse = aws:kms" in refusal(read, flags={"sse_kms_key_id": "key"})
    assert "max_dirty_age" in refusal(read, flags={"settle": "6s"})
    assert read(flags={"sse": "aws:kms", "sse_kms_key_id": "key"}).sse_kms_key_id == "key"


@pytest.mark.parametrize("store", ["sessions", "sessions/s1", "sessions/.cachesync/x", "", "elsewhere/../sessions/s1"])
def test_store_and_root_must_not_lie_in_each_other(read, tmp_path, store):
    assert "outside the root" in refusal(read, flags={"store": f"file://{tmp_path}/{store}"})


@pytest.mark.parametrize("state", ["sessions", "sessions/s1", "sessions/s1/.cachesync"])
def test_the_state_must_not_be_a_session(read, state):
    assert "would be a session" in refusal(read, flags={"state": state})


def test_paths_are_absolute_and_know_home(read, tmp_path):
    config = read(flags={"root": "../w"}, here="state = '~/state'")
    assert config.root == tmp_path / "../w"
    assert config.state == Path("/home/ada/state")
    assert config.socket == Path("/home/ada/state/control.sock")


def test_toml_types(read):
    config = read(here="transfers = 4\nsettle = 0.5\npath_style = true\nroot = '/r'")
    assert (config.transfers, config.settle, config.path_style, config.root) == (4, 0.5, True, Path("/r"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("setle = '1s'", "did you mean settle?"),
        ("zzz = 1", "'zzz'"),
        ("root = ['/a']", "'root'"),
        ("[store]\nurl = 'x'", "'store'"),
        ("root = ", "allowed: TOML"),
    ],
)
def test_bad_files(read, tmp_path, text, words):
    said = refusal(read, here=text)
    assert words in said
    assert str(tmp_path / "cachesync.toml") in said


def test_files_that_cannot_be_read(read, tmp_path):
    (tmp_path / "cachesync.toml").write_bytes(b"root = '\xff'")
    assert str(tmp_path / "cachesync.toml") in refusal(read)
    (tmp_path / "cachesync.toml").unlink()
    (tmp_path / "system.toml").mkdir()
    assert "not a regular file" in refusal(read)
    (tmp_path / "system.toml").rmdir()
    (tmp_path / "system.toml").write_bytes(b"root = '\xff'")
    assert str(tmp_path / "system.toml") in refusal(read)


def test_unknown_flags_are_refused(read):
    assert "'colour'" in refusal(read, flags={"colour": "red"})


def test_secrets_are_never_shown(read):
    secrets = {
        "CACHESYNC_HTTP_TOKEN": "token-s3cr3t",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalr-s3cr3t",
        "AWS_SESSION_TOKEN": "session-s3cr3t",
        "CACHESYNC_STORE": "sftp://ada:pass-s3cr3t@w@host/dir",
    }
    config = read(environ=secrets)
    said = repr(config) + repr(config.sources())
    assert "s3cr3t" not in said
    assert "IOSFODNN" not in said
    assert origin(config, "aws_access_key_id") == ("AKIA...MPLE", "environment AWS_ACCESS_KEY_ID")
    assert origin(config, "aws_secret_access_key") == ("***", "environment AWS_SECRET_ACCESS_KEY")
    assert origin(config, "http_token") == ("***", "environment CACHESYNC_HTTP_TOKEN")
    assert config.store.shown == "sftp://ada:***@host/dir"
    assert config.store_url == secrets["CACHESYNC_STORE"]
    assert "s3cr3t" not in refusal(read, environ={"CACHESYNC_HTTP_TOKEN": "s3 s3cr3t"})
    assert "s3cr3t" not in refusal(read, environ={"CACHESYNC_STORE": "https://ada:s3cr3t@host"})
    assert "1234" not in repr(read(environ={"AWS_ACCESS_KEY_ID": "1234"}).sources())


def test_the_object_is_frozen(read):
    with pytest.raises(dataclasses.FrozenInstanceError):
        read().root = Path("/")


def test_every_setting_is_declared_with_help_and_a_default_that_it_allows():
    for name, setting in SETTINGS.items():
        assert setting.name == name
        assert setting.help
        assert setting.environment[0] == f"CACHESYNC_{name.upper()}"
        if setting.default is not None:
            setting.kind.parse(setting.default)
    assert [setting.name for setting in SETTINGS.values() if setting.secret] == ["http_token"]


def test_an_octal_number_of_toml_is_not_taken_for_another_umask(read):
    assert read(here="umask = '027'").umask == 0o27
    for text in ("0o27", "0o777", "27"):
        with pytest.raises(ConfigError, match="umask"):
            read(here=f"umask = {text}")
