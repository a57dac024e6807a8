"""CloudWatch gets the seed's three metrics, in batches, and never holds anybody up."""

import asyncio
import contextlib
import math
import socket
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from botocore.session import Session

from cachesync.model.events import Event, What
from cachesync.ops.bucket import policies
from cachesync.telemetry import cloudwatch
from cachesync.telemetry.cloudwatch import AT_ONCE, KEPT, NAMESPACE, VALUES, CloudWatch
from tests.promises.host import eventually

pytestmark = pytest.mark.timeout(90)
REGION = "us-east-1"
NOON = 1_764_072_000.0


@pytest.fixture
def aws(moto, no_aws):
    """The environment that leads the chain to moto; moto without memory."""
    moto.reset()
    for name, value in {
        "AWS_ENDPOINT_URL_CLOUDWATCH": moto.endpoint,
        "AWS_ACCESS_KEY_ID": "moto",
        "AWS_SECRET_ACCESS_KEY": "moto",
    }.items():
        no_aws.setenv(name, value)
    return no_aws


@pytest.fixture
def received(moto):
    """What CloudWatch has of a metric, by the minute: of a time span, the sum and how many samples."""
    client = Session().create_client(
        "cloudwatch", region_name=REGION, endpoint_url=moto.endpoint, aws_access_key_id="m", aws_secret_access_key="m"
    )

    def ask(name, begin=None, end=None):
        begin = datetime.now(UTC) - timedelta(hours=5) if begin is None else datetime.fromtimestamp(begin, UTC)
        end = datetime.now(UTC) + timedelta(minutes=5) if end is None else datetime.fromtimestamp(end, UTC)
        answer = client.get_metric_statistics(
            Namespace=NAMESPACE, MetricName=name, StartTime=begin, EndTime=end, Period=60,
            Statistics=["Sum", "SampleCount", "Minimum", "Maximum"],
        )  # fmt: skip
        return sorted(answer["Datapoints"], key=lambda point: point["Timestamp"])

    yield ask
    client.close()


def stored(at, seconds=0.1, **told):
    return Event(What.STORED, at, "s", "a", size=1, seconds=seconds, **({"sent": True} | told))


class Calls:
    """In the place of a client: remembers requests, or fails."""

    def __init__(self):
        self.requests = []
        self.error = None

    async def put_metric_data(self, **request):
        if self.error is not None:
            raise self.error
        self.requests.append(request)

    @contextlib.asynccontextmanager
    async def __call__(self):
        yield self


@pytest.fixture
def calls(monkeypatch):
    calls = Calls()
    monkeypatch.setattr(CloudWatch, "_client", lambda _self: calls())
    return calls


def send(watch, ended_before=math.inf):
    asyncio.run(watch.send(ended_before=ended_before))


def total(calls, name):
    rows = [row for request in calls.requests for row in request["MetricData"] if row["MetricName"] == name]
    return sum(row["Value"] for row in rows)


# -- moto --------------------------------------------------------------------------------------------------------------


def test_moto_has_what_was_counted(aws, received):
    now = time.time()
    watch = CloudWatch(REGION)
    for seconds in (0.010, 0.020, 0.020, 3.0):
        watch.hear(stored(now, seconds))
    watch.hear(stored(now, sent=False))
    watch.hear(Event(What.FAILED, now, "s", "a", error="denied"))
    watch.hear(Event(What.RETRIED, now, "s", "a", error="503"))
    watch.hear(Event(What.FAILED, now, "s", "a", error="held", deleting=True))
    watch.hear(Event(What.DIRTY, now, "s", "a"))
    send(watch)
    (success,), (failure,) = received("ArtifactUploadSuccess"), received("ArtifactUploadFailure")
    assert (success["Sum"], failure["Sum"]) == (4, 2)
    (latency,) = received("ArtifactUploadLatency")
    assert latency["Unit"] == "Milliseconds"
    assert latency["Minimum"] == pytest.approx(10, rel=0.05)
    assert latency["Maximum"] == pytest.approx(3000, rel=0.05)


def test_a_daemon_sends_its_last_batch_at_the_end(moto, aws, host, received):
    host.env |= {"AWS_ENDPOINT_URL_CLOUDWATCH": moto.endpoint, "CACHESYNC_CLOUDWATCH": "true"}
    host.start()
    for number in range(7):
        host.write(f"f{number}")
    host.stored()
    begun = time.monotonic()
    assert host.stop() == 0
    assert time.monotonic() - begun < 5
    assert sum(point["Sum"] for point in received("ArtifactUploadSuccess")) == 7
    assert received("ArtifactUploadLatency")


def test_it_is_off_unless_it_is_asked_for(moto, aws, host, received):
    host.env |= {"AWS_ENDPOINT_URL_CLOUDWATCH": moto.endpoint}
    host.start()
    host.write("a")
    host.stored()
    assert host.stop() == 0
    assert received("ArtifactUploadSuccess") == []


def test_a_daemon_works_and_ends_where_cloudwatch_takes_everything_and_says_nothing(host):
    with socket.create_server(("127.0.0.1", 0), backlog=64) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        host.env |= {"AWS_ENDPOINT_URL_CLOUDWATCH": address, "CACHESYNC_CLOUDWATCH": "true"}
        host.start()
        host.write("a", "abc")
        assert host.stored()["seconds"] < 5
        begun = time.monotonic()
        assert host.stop() == 0
        assert time.monotonic() - begun < 8


# -- batches -----------------------------------------------------------------------------------------------------------


def test_a_busy_minute_is_one_request_of_three_metrics(calls):
    watch = CloudWatch(REGION, clock=lambda: NOON)
    for number in range(50_000):
        watch.hear(stored(NOON + number % 60, 0.0001 * number))
    watch.hear(Event(What.FAILED, NOON, "s", "a", error="denied"))
    send(watch)
    (request,) = calls.requests
    assert request["Namespace"] == NAMESPACE
    rows = {row["MetricName"]: row for row in request["MetricData"]}
    assert set(rows) == {"ArtifactUploadSuccess", "ArtifactUploadFailure", "ArtifactUploadLatency"}
    latency = rows["ArtifactUploadLatency"]
    assert len(latency["Values"]) == len(latency["Counts"]) <= VALUES
    assert sum(latency["Counts"]) == 50_000
    assert len(str(request)) < 20_000
    assert {row["Timestamp"] for row in request["MetricData"]} == {datetime.fromtimestamp(NOON, UTC)}


def test_the_policy_that_we_print_allows_it():
    (statement,) = policies.cloudwatch()["Statement"]
    assert statement["Condition"]["StringEquals"]["cloudwatch:namespace"] == NAMESPACE


def test_a_minute_that_is_not_over_waits(calls):
    watch = CloudWatch(REGION, clock=lambda: NOON)
    watch.hear(stored(NOON - 1))
    watch.hear(stored(NOON + 1))
    send(watch, ended_before=NOON)
    assert total(calls, "ArtifactUploadSuccess") == 1
    send(watch)
    assert total(calls, "ArtifactUploadSuccess") == 2


def test_nothing_is_sent_where_nothing_happened(calls):
    send(CloudWatch(REGION))
    assert calls.requests == []


def test_in_an_outage_three_hours_are_kept_and_sent_after_it(calls, caplog):
    caplog.set_level("INFO")
    watch = CloudWatch(REGION, clock=lambda: NOON)
    calls.error = OSError("no route")
    for minute in range(KEPT + 60):
        for _ in range(10):
            watch.hear(stored(NOON + 60 * minute))
        send(watch)
    assert len(watch._minutes) == KEPT
    assert [record.levelname for record in caplog.records] == ["WARNING"], "said once"
    calls.error = None
    send(watch)
    assert total(calls, "ArtifactUploadSuccess") == 10 * KEPT
    assert len(calls.requests) == KEPT // AT_ONCE
    assert all(len(request["MetricData"]) <= 1000 for request in calls.requests)
    assert watch._minutes == {}
    assert caplog.records[-1].getMessage() == "CloudWatch takes metrics again"


def test_what_is_not_taken_is_added_to_what_came_meanwhile(calls):
    watch = CloudWatch(REGION)
    watch.hear(stored(NOON))
    calls.error = OSError()
    put = calls.put_metric_data

    async def meanwhile(**request):
        watch.hear(stored(NOON, 7.0))
        await put(**request)

    calls.put_metric_data = meanwhile
    send(watch)
    calls.error, calls.put_metric_data = None, put
    send(watch)
    assert total(calls, "ArtifactUploadSuccess") == 2
    latency = calls.requests[0]["MetricData"][-1]
    assert sum(latency["Counts"]) == 2


def test_whatever_the_time_was_the_value_is_true_to_a_twentieth(calls):
    for seconds in (0.0, 0.0005, 0.0123, 1.0, 59.0, 300.0):
        watch = CloudWatch(REGION)
        watch.hear(stored(NOON, seconds))
        calls.requests.clear()
        send(watch)
        (value,) = calls.requests[0]["MetricData"][-1]["Values"]
        assert value == pytest.approx(max(1000 * seconds, 0.5), rel=0.055)


# -- the thread --------------------------------------------------------------------------------------------------------


def test_the_thread_sends_now_and_then_and_at_the_end(calls):
    watch = CloudWatch(REGION, clock=lambda: NOON + 61, period=0.02)
    watch.start()
    watch.hear(stored(NOON))
    eventually(lambda: total(calls, "ArtifactUploadSuccess") == 1)
    watch.hear(stored(NOON + 60))
    watch.stop(5)
    assert total(calls, "ArtifactUploadSuccess") == 2
    assert not watch._thread.is_alive()


def test_the_end_does_not_wait_for_one_who_does_not_answer(calls, monkeypatch):
    begun, release = threading.Event(), threading.Event()

    async def never(**_):
        begun.set()
        await asyncio.to_thread(release.wait, 30)

    calls.put_metric_data = never
    watch = CloudWatch(REGION)
    watch.start()
    watch.hear(stored(NOON))
    before = time.monotonic()
    watch.stop(0.3)
    assert time.monotonic() - before < 2
    assert begun.is_set()
    release.set()
    watch._thread.join(5)


def test_a_broken_answer_does_not_end_the_thread(calls):
    watch = CloudWatch(REGION, clock=lambda: NOON + 60, period=0.02)
    calls.error = ValueError("odd")
    watch.start()
    watch.hear(stored(NOON))
    eventually(lambda: watch._troubled)
    calls.error = None
    eventually(lambda: total(calls, "ArtifactUploadSuccess") == 1)
    watch.stop(5)


def test_a_request_is_bounded_in_time(monkeypatch):
    monkeypatch.setattr(cloudwatch, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as deaf:
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDWATCH", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "moto")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "moto")
        watch = CloudWatch(REGION)
        watch.hear(stored(NOON))
        begun = time.monotonic()
        send(watch)
    assert time.monotonic() - begun < 5
    assert watch._troubled
    assert len(watch._minutes) == 1
