"""Podman and Buildah under the name of ``docker``, without a registry, systemd or a network of their own."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
TOOLS = ("buildah", "podman", "mmdebstrap", "runc")
BASE = "localhost/base"
CONTEXT = ("Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE", "cachesync", "deploy")
"""What of a clone the build is given here."""

_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_INCLUDED = "python3,python3-venv,python3-pip,ca-certificates,curl"

_DOCKER = """\
#!/bin/bash
# docker's words, said to podman and buildah.
verb=$1
shift
case $verb in
build) exec {buildah} bud --isolation chroot {limits} --pull=never --network host --format docker {trust} \\
  --build-arg BASE={base} "$@" ;;
run) exec {podman} run --pull=never {limits} --network host "$@" ;;
*) exec {podman} "$verb" "$@" ;;
esac
"""

_SETTINGS = """\
[engine]
tmp_dir = "{folder}/tmp"
lock_type = "file"
cgroup_manager = "cgroupfs"
runtime = "runc"
"""


class Engine:
    """Images, containers and volumes below ``folder``. ``engine("run", ...)`` is what ``docker run ...`` says.

    ``environ`` has a PATH on which ``docker`` is this engine.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "containers.conf").write_text(_SETTINGS.format(folder=folder))
        (folder / "bin").mkdir()
        places = f"--root {folder}/storage --runroot {folder}/run"
        words = {
            "podman": f"podman {places}",
            "buildah": f"buildah {places}",
            # Nobody may raise them in a container who may not here.
            "limits": " ".join(
                f"--ulimit {name}={most}:{most}"
                for name, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
                for most in [resource.getrlimit(number)[1]]
            ),
            "base": BASE,
            # What this machine trusts, the build does: pip may be behind a proxy here.
            "trust": f"-v {_CERTIFICATES}:{_CERTIFICATES}:ro" if Path(_CERTIFICATES).exists() else "",
        }
        docker = folder / "bin/docker"
        docker.write_text(_DOCKER.format(**words))
        docker.chmod(0o755)
        self.environ = os.environ | {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
        }

    def __call__(self, *words: object, code: int | None = 0, timeout: float = 120.0) -> str:
        """Say it, and return what it says on stdout; ``code`` None is any exit code."""
        command = [str(self.folder / "bin/docker"), *map(str, words)]
        done = subprocess.run(
            command,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert code is None or done.returncode == code, (
            f"exit code {done.returncode}: {shlex.join(command[1:])}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout.strip()

    def make_base(self) -> None:
        """A minimal Debian with Python, called BASE, from the archive that this machine's apt uses."""
        asked = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]
        archive, release = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[:2]
        made = self.folder / "base.tar"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_INCLUDED}", release, str(made), archive]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        self("import", made, BASE)
        made.unlink()

    def build(self, name: str, *, context: Path = TOP) -> None:
        """The Dockerfile's image."""
        self("build", "-q", "-t", name, context, timeout=240)

    def code_of(self, container: str) -> int:
        """The exit code of a container that has ended."""
        return int(self("inspect", "-f", "{{.State.ExitCode}}", container))

    def remove_all(self) -> None:
        """Every container and volume."""
        self("rm", "-f", "-t", "0", "-a")
        self("volume", "rm", "-f", "-a")
