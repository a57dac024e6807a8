"""The three metrics of uploads that Amazon CloudWatch gets, where that is switched on.

``ArtifactUploadSuccess`` and ``ArtifactUploadFailure`` count, by the minute, files stored and tries that failed;
``ArtifactUploadLatency`` has the milliseconds from a file's change first noticed to the store's yes. One request a
minute, and none where nothing happened. While CloudWatch gives no answer the last three hours are kept, and sent when
it is back.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from cachesync.model.events import Event, What
from cachesync.telemetry.activity import middle_of, step_of

logger = logging.getLogger(__name__)

NAMESPACE = "LLMChain/Artifacts"
PERIOD = 60.0
KEPT = 180
"""Minutes that wait for CloudWatch to answer; about 1 MB. The oldest go first."""

AT_ONCE = 20
"""Minutes in one request: 60 metrics of at most VALUES values, a fifth of the 1 MB that CloudWatch takes."""

VALUES = 150
"""Different values of one metric in one request, at most (CloudWatch's own limit)."""

TIMEOUT = 10.0
"""Seconds for one request."""


@dataclass(slots=True)
class _Minute:
    """``latency`` counts by steps (activity.step_of): CloudWatch's percentiles are true to a twentieth then. VALUES of
    them reach ten minutes and beyond."""

    stored: int = 0
    failed: int = 0
    latency: Counter[int] = field(default_factory=Counter)


class CloudWatch:
    """A listener (events.Events.join) and a thread that sends. ``region`` None: as the AWS chain has it."""

    def __init__(self, region: str | None, *, clock: Callable[[], float] = time.time, period: float = PERIOD) -> None:
        self._region = region
        self._clock = clock
        self._period = period
        self._lock = threading.Lock()
        self._minutes: dict[int, _Minute] = {}
        self._troubled = False
        self._session: AioSession | None = None
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="cloudwatch", daemon=True)

    def hear(self, event: Event) -> None:
        """Count it, if it is an upload or one that failed."""
        what = event.what
        if what is What.STORED and event.sent:
            with self._lock:
                minute = self._minute(event.at)
                minute.stored += 1
                if event.seconds is not None:
                    minute.latency[min(VALUES - 1, step_of(event.seconds))] += 1
        elif what in (What.FAILED, What.RETRIED) and not event.deleting:
            with self._lock:
                self._minute(event.at).failed += 1

    def start(self) -> None:
        """Send what was counted, once a period."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Send the rest, for ``timeout`` seconds at most, and end."""
        self._stopped.set()
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None:
            try:
                loop.call_soon_threadsafe(stop.set)
            except RuntimeError:  # the thread has ended by itself
                return
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _minute(self, at: float) -> _Minute:
        number = int(at // 60)
        minute = self._minutes.get(number)
        if minute is None:
            if len(self._minutes) >= KEPT:
                self._minutes.pop(min(self._minutes))
            minute = self._minutes[number] = _Minute()
        return minute

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._send_now_and_then())
        except Exception:
            logger.exception("nothing is sent to CloudWatch any more")

    async def _send_now_and_then(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        while not self._stopped.is_set():
            try:
                async with asyncio.timeout(self._period):
                    await self._stop.wait()
            except TimeoutError:
                await self.send(ended_before=self._clock() - self._clock() % 60)
        await self.send(ended_before=math.inf)

    async def send(self, *, ended_before: float) -> None:
        """Send the minutes that have ended before a time, the oldest first. What is not taken is kept."""
        with self._lock:
            numbers = sorted(number for number in self._minutes if (number + 1) * 60 <= ended_before)
        if not numbers:
            return
        try:
            async with asyncio.timeout(TIMEOUT * 2), self._client() as client:
                for start in range(0, len(numbers), AT_ONCE):
                    await self._put(client, numbers[start : start + AT_ONCE])
        except Exception as error:  # noqa: BLE001 -- whatever it was, it must not end this thread: it is tried again
            level = logging.DEBUG if self._troubled else logging.WARNING
            logger.log(level, "CloudWatch takes no metrics, tried again each minute: %s", _cause(error))
            self._troubled, self._session = True, None  # the next one asks the chain anew
            return
        if self._troubled:
            self._troubled = False
            logger.info("CloudWatch takes metrics again")

    async def _put(self, client: Any, numbers: Sequence[int]) -> None:
        """One request; what it carried is forgotten when CloudWatch has it."""
        with self._lock:
            taken = {number: self._minutes.pop(number) for number in numbers if number in self._minutes}
        data = [row for number, minute in taken.items() for row in _data(number, minute)]
        try:
            if data:
                await client.put_metric_data(Namespace=NAMESPACE, MetricData=data)
        except BaseException:
            with self._lock:
                self._restore(taken)
            raise

    def _restore(self, taken: dict[int, _Minute]) -> None:
        for number, minute in taken.items():
            since = self._minutes.get(number)
            if since is not None:
                minute.stored += since.stored
                minute.failed += since.failed
                minute.latency += since.latency
            self._minutes[number] = minute
        while len(self._minutes) > KEPT:
            self._minutes.pop(min(self._minutes))

    def _client(self) -> Any:
        """A client of its own each time: once a minute, and no connection is kept open for that. The session stays, as
        it has parsed what CloudWatch is."""
        config = AioConfig(
            connect_timeout=5, read_timeout=TIMEOUT, retries={"mode": "standard", "total_max_attempts": 2}
        )
        self._session = self._session or AioSession()
        return self._session.create_client("cloudwatch", region_name=self._region, config=config)


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _data(number: int, minute: _Minute) -> list[dict[str, Any]]:
    """A minute as CloudWatch's MetricDatum objects."""
    at = {"Timestamp": datetime.fromtimestamp(number * 60, UTC)}
    rows: list[dict[str, Any]] = []
    counts = {"ArtifactUploadSuccess": minute.stored, "ArtifactUploadFailure": minute.failed}
    rows += [{"MetricName": name, "Value": count, "Unit": "Count"} | at for name, count in counts.items() if count]
    if minute.latency:
        steps = sorted(minute.latency)
        values = [round(middle_of(step) * 1000, 3) for step in steps]
        rows.append(
            {
                "MetricName": "ArtifactUploadLatency",
                "Values": values,
                "Counts": [minute.latency[step] for step in steps],
                "Unit": "Milliseconds",
            }
            | at
        )
    return rows
