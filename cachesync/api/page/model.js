// What the daemon says: its status, kept current by its events; and the last 15 minutes, for the plots.

import { Refused } from "./api.js";

const BUCKET = 5;
const WINDOW = 900;
const FEED = 60;
const SAMPLES = 500;

export class Model extends EventTarget {
  constructor(api) {
    super();
    this.api = api;
    this.status = null;
    this.sessions = new Map();
    this.link = "connecting"; // connecting, live, away
    this.heardAt = 0;
    this.feed = [];
    this.buckets = new Map();
    this.lastStored = 0;
    this.running = null;
    this.timer = null;
    this.due = 0;
    this.refreshing = null;
    this.changed = false;
    this.waiting = new Map(); // session -> path -> what its last event said
    this.samples = { at: 0, seconds: [] };
  }

  start() {
    this.stop();
    this.running = new AbortController();
    this.follow(this.running.signal);
  }

  stop() {
    this.running?.abort();
    this.running = null;
    clearTimeout(this.timer);
    this.timer = null;
  }

  say(what, detail) {
    this.dispatchEvent(new CustomEvent(what, { detail }));
  }

  // -- the stream --------------------------------------------------------------------------------------------------

  async follow(signal) {
    let pause = 500;
    while (!signal.aborted) {
      try {
        for await (const events of this.api.events(signal)) {
          if (this.link !== "live") {
            // Listening first, then asking: what happens in between is told twice rather than never.
            this.setLink("live");
            pause = 500;
            await Promise.all([this.refresh(), this.reload()]);
          }
          this.heardAt = Date.now() / 1000;
          if (events.length) this.take(events);
        }
      } catch (error) {
        if (signal.aborted || (error instanceof Refused && error.status === 401)) return;
        if (error instanceof Refused) this.say("trouble", error.message);
      }
      if (signal.aborted) return;
      this.setLink("away");
      await new Promise((done) => setTimeout(done, pause * (0.75 + Math.random() / 2)));
      pause = Math.min(pause * 1.8, 15_000);
    }
  }

  setLink(link) {
    if (this.link !== link) {
      this.link = link;
      this.say("link");
      this.say("status");
    }
  }

  take(events) {
    let lost = 0;
    for (const event of events) {
      if (event.kind === "lost") lost += event.count;
      else this.apply(event);
    }
    if (lost) {
      this.waiting.clear();
      this.reload();
    }
    for (const event of events) {
      if (event.kind !== "dirty") this.feed.unshift(event);
    }
    this.feed.length = Math.min(this.feed.length, FEED);
    this.say("events", events);
    this.say("status");
    this.soon();
  }

  apply(event) {
    const row = this.sessions.get(event.session);
    const known = this.waiting.get(event.session) ?? new Map();
    this.waiting.set(event.session, known);
    const before = known.get(event.path);
    if (event.kind === "stored") this.count(event);
    if (event.kind === "failed") this.bucket(event.at).failed += 1;
    if (!row) return;
    if (event.kind === "dirty" && before === undefined) {
      row.dirty += 1;
      row.oldest_dirty_age ??= 0;
      known.set(event.path, "dirty");
    } else if (event.kind === "failed" && before !== "failed") {
      // A try that is not the first may be of a file that the status has among the failed ones already.
      if (before !== undefined || event.attempts === 1) row.failed += 1;
      row.dirty = Math.max(row.dirty, row.failed);
      known.set(event.path, "failed");
    } else if ((event.kind === "stored" && event.complete !== false) || event.kind === "deleted") {
      if (before === "failed") row.failed = Math.max(0, row.failed - 1);
      row.dirty = Math.max(row.failed, row.dirty - 1);
      known.delete(event.path);
    }
    row.safe_to_kill = row.dirty === 0 && row.in_flight === 0;
    if (row.dirty === 0) row.oldest_dirty_age = null;
  }

  // -- the last 15 minutes -----------------------------------------------------------------------------------------

  bucket(at) {
    const start = Math.floor(at / BUCKET) * BUCKET;
    let found = this.buckets.get(start);
    if (!found) {
      found = { at: start, stored: 0, bytes: 0, failed: 0, p50: null, p99: null };
      this.buckets.set(start, found);
      for (const old of this.buckets.keys()) if (old < start - WINDOW - BUCKET) this.buckets.delete(old);
    }
    return found;
  }

  count(event) {
    this.lastStored = Math.max(this.lastStored, event.at);
    if (event.sent === false) return; // the store had these bytes already
    const bucket = this.bucket(event.at);
    bucket.stored += 1;
    bucket.bytes += event.size ?? 0;
    if (typeof event.seconds !== "number") return;
    if (this.samples.at !== bucket.at) this.samples = { at: bucket.at, seconds: [] };
    const seconds = this.samples.seconds;
    if (seconds.length < SAMPLES) seconds.push(event.seconds);
    else seconds[Math.floor(Math.random() * SAMPLES)] = event.seconds;
    const sorted = [...seconds].sort((a, b) => a - b);
    bucket.p50 = sorted[Math.floor((sorted.length - 1) * 0.5)];
    bucket.p99 = sorted[Math.floor((sorted.length - 1) * 0.99)];
  }

  async reload() {
    try {
      const told = await this.api.json("GET", "/v1/activity");
      this.buckets = new Map(told.buckets.map((bucket) => [bucket.at, bucket]));
      const last = told.buckets.filter((bucket) => bucket.stored).at(-1);
      if (last) this.lastStored = Math.max(this.lastStored, last.at);
      this.say("events", []);
    } catch {
      // The plots begin with what comes now.
    }
  }

  // -- the status --------------------------------------------------------------------------------------------------

  // Ask again: soon, but no more than a tenth of the time.
  soon() {
    this.changed = true;
    if (!this.refreshing) this.plan(Math.max(700, 9 * (this.took ?? 0)));
  }

  // Once; what is planned for an earlier time already stays.
  plan(delay) {
    const due = performance.now() + delay;
    if (this.timer && this.due <= due) return;
    clearTimeout(this.timer);
    this.due = due;
    this.timer = setTimeout(() => {
      this.timer = null;
      if (this.running) this.refresh();
    }, delay);
  }

  refresh() {
    this.refreshing ??= this.load().finally(() => {
      this.refreshing = null;
      if (this.changed) this.soon();
      else if (!document.hidden) this.plan(Math.max(10_000, 20 * (this.took ?? 0)));
      else this.plan(60_000);
    });
    return this.refreshing;
  }

  async load() {
    const begun = performance.now();
    this.changed = false;
    try {
      const told = await this.api.json("GET", "/v1/status");
      this.took = performance.now() - begun;
      this.status = told;
      this.sessions = new Map(told.sessions.map((row) => [row.session, row]));
      for (const known of this.waiting.keys()) if (!this.sessions.get(known)?.dirty) this.waiting.delete(known);
      this.seenAt = Date.now() / 1000;
      this.say("status");
    } catch (error) {
      if (error instanceof Refused && error.status !== 401) this.say("trouble", error.message);
    }
  }

  // -- sums --------------------------------------------------------------------------------------------------------

  totals() {
    const sum = {
      sessions: 0,
      files: 0,
      bytes: 0,
      dirty: 0,
      dirtyBytes: 0,
      inFlight: 0,
      failed: 0,
      evicted: 0,
      oldest: null,
    };
    for (const row of this.sessions.values()) {
      sum.sessions += 1;
      sum.files += row.files;
      sum.bytes += row.bytes;
      sum.dirty += row.dirty;
      sum.dirtyBytes += row.dirty_bytes;
      sum.inFlight += row.in_flight;
      sum.failed += row.failed;
      sum.evicted += row.evicted;
      if (row.oldest_dirty_age !== null) sum.oldest = Math.max(sum.oldest ?? 0, row.oldest_dirty_age);
    }
    return sum;
  }

  latency(seconds = 300) {
    const since = Date.now() / 1000 - seconds;
    const recent = [...this.buckets.values()].filter((one) => one.at >= since && one.p50 !== null && one.stored);
    if (!recent.length) return null;
    recent.sort((a, b) => a.p50 - b.p50);
    const half = recent.reduce((total, one) => total + one.stored, 0) / 2;
    let passed = 0;
    const middle = recent.find((one) => (passed += one.stored) >= half);
    return { p50: middle.p50, p99: Math.max(...recent.map((one) => one.p99 ?? one.p50)) };
  }
}
