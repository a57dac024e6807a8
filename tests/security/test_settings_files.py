"""H4: a ``cachesync.toml`` counts only if no stranger can have put it there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cachesync.config import Config, load
from cachesync.model.errors import ConfigError

ATTACK = "endpoint = 'https://attacker.example'\n"
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")
STRANGER = 12345


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir(mode=0o700)
    return folder


def config_in(folder: Path, **environ: str) -> Config:
    return load({}, {"HOME": str(folder / "no-home")} | environ, folder, system_file=folder / "none")


def written(path: Path, text: str = ATTACK) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o644)
    return path


def left_out(folder: Path, caplog: pytest.LogCaptureFixture, words: str) -> None:
    assert config_in(folder).endpoint is None
    (warning,) = [record.getMessage() for record in caplog.records]
    assert f"{folder / 'cachesync.toml'} is not used: " in warning
    assert words in warning


def test_the_callers_own_file_counts(folder, caplog):
    written(folder / "cachesync.toml")
    assert config_in(folder).endpoint == "https://attacker.example"
    assert not caplog.records


@ROOT_ONLY
def test_a_strangers_file_is_left_out(folder, caplog):
    os.chown(written(folder / "cachesync.toml"), STRANGER, STRANGER)
    left_out(folder, caplog, f"it belongs to user {STRANGER}")


@ROOT_ONLY
def test_a_file_in_a_strangers_directory_is_left_out(folder, caplog):
    written(folder / "cachesync.toml")
    os.chown(folder, STRANGER, STRANGER)
    left_out(folder, caplog, f"its directory belongs to user {STRANGER}")


def test_a_file_where_everybody_writes_is_left_out(folder, caplog):
    written(folder / "cachesync.toml")
    folder.chmod(0o1777)
    left_out(folder, caplog, "everybody can write its directory")


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_the_callers_file_that_others_can_write_is_an_error_that_says_how_to_mend_it(folder, mode):
    written(folder / "cachesync.toml").chmod(mode)
    with pytest.raises(ConfigError, match=r"chmod go-w .*cachesync\.toml"):
        config_in(folder)
    (folder / "cachesync.toml").chmod(0o600)
    folder.chmod(0o770)
    with pytest.raises(ConfigError, match=f"chmod go-w {folder}"):
        config_in(folder)


def test_a_link_is_left_out(folder, tmp_path, caplog):
    (folder / "cachesync.toml").symlink_to(written(tmp_path / "elsewhere.toml"))
    left_out(folder, caplog, "it is a link")


def test_what_is_no_file_hangs_nothing(folder, caplog):
    os.mkfifo(folder / "cachesync.toml")
    left_out(folder, caplog, "not a regular file")
    (folder / "cachesync.toml").unlink()
    caplog.clear()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(folder)  # the path may be too long for a socket's address
        listener.bind("cachesync.toml")
        left_out(folder, caplog, "not a regular file")
    (folder / "cachesync.toml").unlink()
    caplog.clear()
    (folder / "cachesync.toml").mkdir()
    left_out(folder, caplog, "not a regular file")


@pytest.fixture(autouse=True)
def at_home():
    before = os.getcwd()
    yield
    os.chdir(before)


def test_nothing_below_a_root_counts(tmp_path, caplog):
    """The state folder shows a root; a root whose state is elsewhere is the one that is configured."""
    root = tmp_path / "root"
    session = root / "s1" / "deep"
    session.mkdir(parents=True)
    written(session / "cachesync.toml")
    assert config_in(session).endpoint is not None, "it is a directory like another"
    assert config_in(session, CACHESYNC_ROOT=str(root)).endpoint is None
    assert "agents write" in caplog.text
    (root / ".cachesync").mkdir(mode=0o700)
    assert config_in(session).endpoint is None
    written(root / "cachesync.toml")
    assert config_in(root).endpoint is None
    (tmp_path / "link").symlink_to(session)
    assert config_in(tmp_path / "link").endpoint is None


@ROOT_ONLY
def test_a_strangers_state_folder_makes_no_root(tmp_path):
    folder = tmp_path / "a" / "b"
    written(folder / "cachesync.toml")
    (tmp_path / "a" / ".cachesync").mkdir()
    os.chown(tmp_path / "a" / ".cachesync", STRANGER, STRANGER)
    assert config_in(folder).endpoint is not None


def test_the_users_own_file_comes_between_the_working_directorys_and_the_machines(folder, tmp_path):
    home = tmp_path / "home"
    own = written(home / ".config/cachesync/cachesync.toml", "settle = '1s'\nregion = 'own'\nsse = 'AES256'\n")
    system = written(tmp_path / "system.toml", "settle = '2s'\nregion = 'system'\nbandwidth = '1MiB'\n")
    written(folder / "cachesync.toml", "settle = '0.5s'\n")
    config = load({}, {"HOME": str(home)}, folder, system_file=system)
    assert (config.settle, config.region, config.sse, config.bandwidth) == (0.5, "own", "AES256", 2**20)
    assert next(row.source for row in config.sources() if row.name == "region") == str(own)
    written(tmp_path / "xdg/cachesync/cachesync.toml", "region = 'xdg'\n")
    config = load({}, {"HOME": str(home), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}, folder, system_file=system)
    assert config.region == "xdg"
    assert load({}, {"HOME": str(home), "XDG_CONFIG_HOME": "xdg"}, folder, system_file=system).region == "own"


def test_a_command_in_a_session_neither_hangs_nor_believes_it(tmp_path):
    root = tmp_path / "root"
    session = root / "s1"
    session.mkdir(parents=True)
    (root / ".cachesync").mkdir(mode=0o700)
    for put in (lambda: written(session / "cachesync.toml"), lambda: os.mkfifo(session / "cachesync.toml")):
        put()
        done = subprocess.run(
            [sys.executable, "-m", "cachesync", "config", "--json"], cwd=session, env={"HOME": str(tmp_path)},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "attacker" not in done.stdout
        (session / "cachesync.toml").unlink()
