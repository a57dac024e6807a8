// The first view: is everything stored? In one sentence, in numbers, in plots, and session by session.

import { el, put, say } from "./build.js";
import * as format from "./format.js";
import { List } from "./list.js";
import { Latency, Throughput } from "./plots.js";

const WORDS = {
  stored: "stored",
  failed: "failed",
  conflict: "conflict",
  deleted: "deleted",
  flushed: "flushed",
  retried: "tried again",
  repaired: "found by a scan",
  evicted: "evicted",
  opened: "opened",
  lost: "events were lost",
};

// The answer for one or many sessions: a sentence, what it means, and how bad it is.
export function answer(model, sum, what = "") {
  const silent = model.status?.store_silent_for ?? null;
  const wait = sum.dirty - sum.failed;
  if (model.link === "away" || model.link === "connecting") {
    const seen = model.seenAt ? `Last heard ${format.ago(model.heardAt || model.seenAt)}: ` : "";
    const then = model.seenAt
      ? sum.dirty
        ? `${format.count(sum.dirty, "file")} not stored.`
        : "everything was stored."
      : "";
    return {
      mood: "away",
      text: model.link === "away" ? "The daemon does not answer." : "Asking the daemon…",
      sub: `${seen}${then}`,
    };
  }
  if (sum.failed) {
    const why = silent === null ? "on the way" : `waiting for the store, silent for ${format.span(silent)}`;
    const rest =
      wait > 0
        ? `${format.count(wait, "more file")} ${wait === 1 ? "is" : "are"} ${why}.`
        : "Everything else is stored.";
    return { mood: "failed", text: `${format.count(sum.failed, "file")} cannot be stored.`, sub: rest };
  }
  if (sum.dirty) {
    const text = `${format.count(sum.dirty, "file")} ${sum.dirty === 1 ? "is" : "are"} not stored yet.`;
    if (silent !== null)
      return {
        mood: "waiting",
        text,
        sub: `The store has not answered for ${format.span(silent)}. Writes go on, and are stored when it is back.`,
      };
    const parts = [
      sum.dirtyBytes ? format.bytes(sum.dirtyBytes) : "",
      sum.inFlight ? `${format.plain(sum.inFlight)} in flight` : "",
      sum.oldest !== null ? `the oldest waits for ${format.span(sum.oldest)}` : "",
    ];
    return { mood: "waiting", text, sub: `${parts.filter(Boolean).join(", ")}.`.replace(/^\.$/, "") };
  }
  if (silent !== null)
    return {
      mood: "waiting",
      text: "The store does not answer.",
      sub: `For ${format.span(silent)}. Nothing waits for it.`,
    };
  if (!sum.files && !sum.sessions)
    return { mood: "none", text: "Nothing to store yet.", sub: "Files written under the root show up here." };
  const last = model.lastStored ? `, the last one ${format.ago(model.lastStored)}` : "";
  return {
    mood: "stored",
    text: what ? `Everything in ${what} is stored.` : "Everything is stored.",
    sub: `${format.count(sum.files, "file")}, ${format.bytes(sum.bytes)}${what ? "" : ` in ${format.count(sum.sessions, "session")}`}${last}.`,
  };
}

export class Hero {
  constructor() {
    this.text = el("h1", { class: "answer" });
    this.sub = el("p", { class: "sub" });
    this.done = el(
      "div",
      { class: "done", role: "progressbar", "aria-label": "Stored", "aria-valuemin": "0", "aria-valuemax": "100" },
      el("i"),
      el("b"),
    );
    this.element = el("div", { class: "hero" }, el("div", { "aria-live": "polite" }, this.text, this.sub), this.done);
  }

  show({ mood, text, sub }, sum) {
    this.element.dataset.mood = mood;
    say(this.text, text);
    say(this.sub, sub);
    const all = Math.max(1, sum.files, sum.dirty);
    const stored = (all - sum.dirty) / all;
    const share = stored < 1 ? Math.min(0.995, stored) : 1; // never quite full before it is
    const [bar, failed] = this.done.children;
    bar.style.width = `${share * 100}%`;
    failed.style.width = sum.failed ? `${Math.max(0.6, (sum.failed / all) * 100)}%` : "0";
    this.done.classList.toggle("more", sum.dirty > sum.failed);
    this.done.setAttribute("aria-valuenow", Math.floor(share * 100));
  }
}

export class Overview {
  constructor(model, go) {
    this.model = model;
    this.hero = new Hero();
    this.numbers = el("dl", { class: "numbers" });
    this.notes = el("ul", { class: "notes", "aria-label": "Notes" });
    this.throughput = new Throughput();
    this.latency = new Latency();
    this.filter = el("input", {
      class: "filter",
      type: "search",
      placeholder: "Filter",
      "aria-label": "Filter the sessions",
      spellcheck: "false",
      oninput: () => this.list_(),
    });
    this.count = el("span", { class: "small" });
    this.list = new List({
      label: "Sessions",
      height: () => (matchMedia("(max-width: 640px)").matches ? 60 : 44),
      key: (row) => row.session,
      row: (row) => sessionRow(row),
      open: (row) => go(`/${row.session}`),
    });
    this.feed = el("ol", { class: "feed", "aria-label": "What happened lately" });
    this.element = el(
      "div",
      { class: "overview" },
      this.hero.element,
      this.notes,
      this.numbers,
      el(
        "section",
        { class: "plots", "aria-label": "The last 15 minutes" },
        this.throughput.element,
        this.latency.element,
      ),
      el(
        "div",
        { class: "columns" },
        el(
          "section",
          { class: "sessions" },
          el("div", { class: "head" }, el("h2", {}, "Sessions"), this.count, this.filter),
          this.list.element,
        ),
        el("section", { class: "lately" }, el("div", { class: "head" }, el("h2", {}, "Lately")), this.feed),
      ),
    );
    this.hears = ["status", "events"].map((what) => {
      const hear = () => this.later();
      model.addEventListener(what, hear);
      return () => model.removeEventListener(what, hear);
    });
    this.clock = setInterval(() => this.later(), 1000);
    this.draw();
  }

  close() {
    this.hears.forEach((stop) => stop());
    clearInterval(this.clock);
    clearTimeout(this.planned);
    this.list.close();
  }

  // At most four times a second, however much happens.
  later() {
    this.planned ??= setTimeout(() => {
      this.planned = null;
      if (!document.hidden) this.draw();
    }, 250);
  }

  draw() {
    const { model } = this;
    const sum = model.totals();
    const told = answer(model, sum);
    this.hero.show(told, sum);
    document.title =
      {
        stored: "✓ stored",
        failed: `${sum.failed} failed`,
        waiting: sum.dirty ? `${sum.dirty} not stored` : "store away",
      }[told.mood] ?? "cachesync";
    const latency = model.latency();
    const rate = model.status?.rate;
    numbers(this.numbers, [
      ["not stored", format.plain(sum.dirty), sum.dirty ? "waiting" : ""],
      ["in flight", format.plain(sum.inFlight), ""],
      ["failed", format.plain(sum.failed), sum.failed ? "failed" : ""],
      ["sent now", rate === null || rate === undefined ? "–" : `${format.bytes(rate)}/s`, ""],
      ["to stored, p50", latency ? format.span(latency.p50) : "–", ""],
      ["to stored, p99", latency ? format.span(latency.p99) : "–", ""],
    ]);
    // What is about one session stands in its row, and in its own view.
    showNotes(
      this.notes,
      (model.status?.notes ?? []).filter((note) => !model.sessions.has(note.split(":")[0])),
    );
    const now = Date.now() / 1000;
    this.throughput.draw(model.buckets, now);
    this.latency.draw(model.buckets, now);
    this.list_();
    this.lately();
  }

  list_() {
    const sought = this.filter.value.trim().toLowerCase();
    const rows = [...this.model.sessions.values()].filter((row) => row.session.toLowerCase().includes(sought));
    rows.sort(
      (a, b) => b.failed - a.failed || Number(b.dirty > 0) - Number(a.dirty > 0) || (a.session < b.session ? -1 : 1),
    );
    say(
      this.count,
      sought ? `${format.plain(rows.length)} of ${format.plain(this.model.sessions.size)}` : format.plain(rows.length),
    );
    const none = this.model.status
      ? sought
        ? "No session has that in its name."
        : "A directory under the root is a session."
      : "";
    this.list.show(rows, none);
  }

  lately() {
    const rows = this.model.feed.slice(0, 12);
    const shape = rows.map((event) => `${event.kind}${event.at}${event.path}`).join();
    if (shape === this.shape && rows.length) return;
    this.shape = shape;
    put(
      this.feed,
      rows.length ? rows.map(feedRow) : el("li", { class: "empty" }, "Nothing since this page was opened."),
    );
  }
}

export function numbers(element, rows) {
  if (element.children.length !== rows.length)
    put(
      element,
      rows.map(() => el("div", {}, el("dt"), el("dd"))),
    );
  rows.forEach(([label, value, mood], number) => {
    const [term, told] = element.children[number].children;
    say(term, label);
    say(told, value);
    element.children[number].dataset.mood = mood;
  });
}

export function showNotes(element, notes) {
  if (element.dataset.shown === notes.join("\n")) return;
  element.dataset.shown = notes.join("\n");
  put(
    element,
    notes.map((note) => el("li", {}, format.name(note))),
  );
}

function sessionRow(row) {
  const mood = row.failed ? "failed" : row.dirty ? "waiting" : "stored";
  const words = [];
  const cause = row.failures[0]?.error.split(" (")[0];
  if (row.failed) words.push(`${format.plain(row.failed)} failed${cause ? `: ${format.name(cause)}` : ""}`);
  if (row.dirty > row.failed) words.push(`${format.plain(row.dirty - row.failed)} not stored`);
  if (row.dirty && row.oldest_dirty_age !== null && row.oldest_dirty_age >= 1)
    words.push(`oldest ${format.span(row.oldest_dirty_age)}`);
  if (!words.length) words.push(row.files ? "stored" : "empty");
  if (row.state === "closed") words.push("closed");
  if (row.conflicts) words.push(format.count(row.conflicts, "conflict"));
  return [
    el("i", { class: "dot", data: { mood }, "aria-hidden": "true" }),
    el("span", { class: "name" }, row.session),
    el("span", { class: "state", data: { mood }, title: words.join(" · ") }, words.join(" · ")),
    el("span", { class: "amount" }, format.count(row.files, "file")),
    el("span", { class: "size" }, format.bytes(row.bytes)),
  ];
}

function feedRow(event) {
  const mood =
    { failed: "failed", conflict: "failed", retried: "waiting", lost: "waiting" }[event.kind] ??
    (event.kind === "flushed" && !event.stored ? "waiting" : "stored");
  const what = event.path ? `${event.session}/${event.path}` : (event.session ?? "");
  const size = typeof event.size === "number" ? format.bytes(event.size) : "";
  const time = typeof event.seconds === "number" ? format.span(event.seconds) : "";
  const word = event.kind === "flushed" && !event.stored ? "flush: not all of it" : (WORDS[event.kind] ?? event.kind);
  const detail = event.error ? format.name(event.error) : [size, time].filter(Boolean).join(" in ");
  return el(
    "li",
    {},
    el("i", { class: "dot", data: { mood }, "aria-hidden": "true" }),
    el("span", { class: "what", title: format.name(what) }, el("bdi", {}, format.name(what) || WORDS[event.kind])),
    el("span", { class: "detail" }, [word, detail].filter(Boolean).join(" · ")),
    event.at ? el("time", { datetime: new Date(event.at * 1000).toISOString() }, format.clock(event.at)) : null,
  );
}
