"""``cachesync doctor`` as an operator runs it: lines, JSON, exit codes; with a daemon and without."""

from __future__ import annotations

import json

import pytest

from tests.promises.host import Host, Outcome
from tests.servers import closed_port, deaf_server

pytestmark = pytest.mark.s3


def found(done: Outcome) -> dict[str, str]:
    return {row["check"]: row["verdict"] for row in done.json}


def problems(done: Outcome) -> dict[str, str]:
    return {row["check"]: f"{row['seen']} | {row['mend']}" for row in done.json if row["verdict"] == "problem"}


def test_a_healthy_host_has_no_problem(host: Host):
    host.keep_versions()
    host.write("a.txt", "1")
    before = host.local()
    alone = host.run("doctor", "--json")
    assert (alone.code, problems(alone)) == (0, {})
    assert not host.state.exists()
    host.start()
    host.stored()
    served = host.run("doctor", "--json")
    assert (served.code, problems(served)) == (0, {})
    assert {"root", "space", "state", "journal", "time stamps", "daemon", "open files", "store", "credentials", "clock",
            "rights", "conditions", "checksums", "versioning"} <= found(served).keys()  # fmt: skip
    assert found(served)["versioning"] == "ok"
    assert host.local() == before
    left = host.s3.list_objects_v2(Bucket=host.bucket, Prefix="sessions/.cachesync/")["Contents"]
    assert [entry["Key"] for entry in left] == ["sessions/.cachesync/store.json"], "nothing of doctor's own"
    assert host.stop() == 0


def test_lines_for_people(host: Host):
    done = host.run("doctor")
    lines = done.out.splitlines()
    assert done.code == 0
    assert any(line.split()[:2] == ["ok", "root"] for line in lines)
    versioning = next(number for number, line in enumerate(lines) if line.startswith("warning  versioning"))
    assert lines[versioning + 1].strip().startswith("mend: aws s3api put-bucket-versioning --bucket")
    assert lines[-1].startswith("0 problems, ")


@pytest.mark.parametrize(
    ("env", "word"),
    [
        ({"CACHESYNC_STORE": "s3://no-such-bucket"}, "create it (cachesync bucket init --apply)"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        ({"S3_ENDPOINT": closed_port()}, "endpoint"),
    ],
    ids=["bucket", "secret", "endpoint"],
)
def test_a_store_that_cannot_be_used(host: Host, env: dict[str, str], word: str):
    done = host.run("doctor", "--json", env=env)
    assert done.code == 1
    assert word in problems(done)["store"]
    assert problems(done).keys() == {"store"}
    assert "1 problem, " in host.run("doctor", env=env).out


def test_no_credentials_at_all(host: Host):
    none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_CONFIG_FILE": "/none"}
    done = host.run("doctor", "--json", env=none | {"AWS_SHARED_CREDENTIALS_FILE": "/none"})
    assert done.code == 1
    assert "AWS_ACCESS_KEY_ID" in problems(done)["credentials"]


def test_credentials_that_have_expired(host: Host):
    """From a program that hands out old ones again and again: said once, in our words alone."""
    program = host.folder / "hand-out"
    keys = {"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", "Expiration": "2020-01-01T00:00:00Z"}
    program.write_text(f"#!/bin/sh\necho '{json.dumps(keys)}'\n")
    program.chmod(0o700)
    config = host.folder / "aws-config"
    config.write_text(f"[default]\ncredential_process = {program}\n")
    none = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_CONFIG_FILE": str(config)}
    done = host.run("doctor", "--json", env=none)
    assert (done.code, done.err) == (1, "")
    assert "expired at 2020-01-01T00:00:00Z | renew them" in problems(done)["credentials"]
    assert "| renew the credentials" in problems(done)["store"]


def test_a_store_that_says_nothing_does_not_hold_it_up(host: Host):
    with deaf_server() as endpoint:
        done = host.run("doctor", "--json", env={"S3_ENDPOINT": endpoint})
    assert done.code == 1
    assert "no answer" in problems(done)["store"]
    assert done.seconds < 25


def test_a_secret_is_nowhere(host: Host):
    done = host.run("doctor", "--json", env={"AWS_SECRET_ACCESS_KEY": "very-secret-indeed"})
    assert "very-secret" not in done.out + done.err


def test_a_state_folder_that_others_may_read_and_a_journal_of_another_store(host: Host):
    host.write("a.txt", "1")
    host.stored()
    host.state.chmod(0o755)
    done = host.run("doctor", "--json", env={"CACHESYNC_STORE": f"file://{host.folder}/elsewhere"})
    assert done.code == 1
    assert "0755" in problems(done)["state"]
    assert f"stored in s3://{host.bucket}" in problems(done)["journal"]


def test_a_root_that_is_gone(host: Host):
    state = {"CACHESYNC_STATE": str(host.folder / "state")}
    host.write("a.txt", "1")
    assert host.run("flush", "s1", env=state).code == 0
    host.root.rename(host.folder / "away")
    done = host.run("doctor", "--json", env=state)
    assert done.code == 1
    assert "is gone" in problems(done)["root"]


def test_a_daemon_that_stores_elsewhere(host: Host):
    host.start()
    done = host.run("doctor", "--json", "--store", f"file://{host.folder}/elsewhere")
    assert done.code == 1
    assert f"stores in s3://{host.bucket}" in problems(done)["store"]
    alone = host.run("doctor", "--json", env={"CACHESYNC_STORE": ""})
    assert (alone.code, found(alone)["store"], found(alone)["journal"]) == (0, "warning", "ok")


def test_a_daemon_of_a_dev_server(host: Host):
    own = dict.fromkeys(("CACHESYNC_STORE", "S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
    folder = str(host.folder / "dev")
    host.serving = ("run", "--dev-server", folder)
    kept = host.env
    host.env = kept | own
    host.start()
    done = host.run("doctor", "--json", "--dev-server", folder)
    assert (done.code, found(done)["store"], found(done)["versioning"]) == (0, "ok", "ok")
    assert host.stop() == 0
    done = host.run("doctor", "--json", "--dev-server", folder)
    assert "store" in problems(done)


def test_what_is_wrong_with_the_words_is_exit_code_2(host: Host):
    assert host.run("doctor", "everything").code == 2
    done = host.run("doctor", "--json", env={"CACHESYNC_TRANSFERS": "many"})
    assert done.code == 2
    assert json.loads(done.out)["error"]["exit_code"] == 2
