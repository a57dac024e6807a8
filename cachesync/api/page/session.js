// One session: whether it is stored, what is not and why, the flush with its receipt, and its artifacts.

import { el, say, tell } from "./build.js";
import { Files } from "./files.js";
import * as format from "./format.js";
import { answer, Hero, numbers, showNotes } from "./overview.js";
import { Pending } from "./pending.js";
import { Receipt } from "./receipt.js";

const RECEIPT = 20_000; // files up to which a flush brings the proof of each

export class SessionView {
  constructor(model, api, go, session, path) {
    this.model = model;
    this.api = api;
    this.session = session;
    this.hero = new Hero();
    this.numbers = el("dl", { class: "numbers" });
    this.notes = el("ul", { class: "notes", "aria-label": "Notes" });
    this.flushing = el(
      "button",
      { class: "main", type: "button", onclick: () => this.flush() },
      "Flush ",
      el("kbd", {}, "f"),
    );
    this.retrying = el(
      "button",
      { type: "button", hidden: true, onclick: () => this.retry() },
      "Try failed again ",
      el("kbd", {}, "r"),
    );
    this.receipt = new Receipt(session, () => this.flushing.focus());
    this.pending = new Pending(api, session, () => this.later());
    this.files = new Files(api, go, session, path);
    this.element = el(
      "div",
      { class: "session" },
      el(
        "div",
        { class: "title" },
        el(
          "nav",
          { "aria-label": "Where you are" },
          el("a", { href: "#/" }, "All sessions"),
          el("span", { "aria-hidden": "true" }, " / "),
          el("strong", {}, session),
        ),
        el("div", { class: "actions" }, this.retrying, this.flushing),
      ),
      this.hero.element,
      this.receipt.element,
      this.notes,
      this.pending.element,
      this.files.element,
      el("div", { class: "foot" }, this.numbers),
    );
    this.hears = [
      ["status", () => this.later()],
      ["events", (event) => event.detail.some((one) => one.session === session) && this.touched(event.detail)],
    ].map(([what, hear]) => {
      model.addEventListener(what, hear);
      return () => model.removeEventListener(what, hear);
    });
    this.clock = setInterval(() => this.later(), 1000);
    this.draw();
    this.pending.load();
  }

  close() {
    this.gone = true;
    this.hears.forEach((stop) => stop());
    clearInterval(this.clock);
    clearTimeout(this.planned);
    clearTimeout(this.asking);
    this.pending.close();
    this.receipt.close();
    this.files.close();
  }

  up() {
    return this.files.up();
  }

  hideReceipt() {
    return this.receipt.hide();
  }

  focusFilter() {
    this.files.filter.focus();
  }

  later() {
    this.planned ??= setTimeout(() => {
      this.planned = null;
      if (!document.hidden) this.draw();
    }, 250);
  }

  draw() {
    const row = this.model.sessions.get(this.session);
    const sum = row
      ? {
          sessions: 1,
          files: row.files,
          bytes: row.bytes,
          dirty: row.dirty,
          dirtyBytes: row.dirty_bytes,
          inFlight: row.in_flight,
          failed: row.failed,
          oldest: row.oldest_dirty_age,
        }
      : { sessions: 0, files: 0, bytes: 0, dirty: 0, dirtyBytes: 0, inFlight: 0, failed: 0, oldest: null };
    const told = answer(this.model, sum, this.session);
    if (row && told.mood === "stored")
      told.sub = `${format.count(row.files, "file")}, ${format.bytes(row.bytes)}. Safe to kill.`;
    if (!row && this.model.status && this.model.link === "live")
      Object.assign(told, {
        mood: "none",
        text: "This host has no such session.",
        sub: "Its artifacts, if there are any in the store, are below.",
      });
    this.hero.show(told, sum);
    document.title = `${told.mood === "stored" ? "✓ " : sum.dirty ? `${sum.dirty} not stored · ` : ""}${this.session}`;
    this.retrying.hidden = !sum.failed;
    this.flushing.disabled = !row || this.busy === true;
    numbers(this.numbers, [
      ["files", format.plain(sum.files), ""],
      ["bytes", format.bytes(sum.bytes), ""],
      ["not stored", format.plain(sum.dirty), sum.dirty ? "waiting" : ""],
      ["failed", format.plain(sum.failed), sum.failed ? "failed" : ""],
      ["only in the store", format.plain(row?.evicted ?? 0), ""],
      ["conflicts", format.plain(row?.conflicts ?? 0), row?.conflicts ? "failed" : ""],
    ]);
    showNotes(
      this.notes,
      (this.model.status?.notes ?? []).filter((note) => note.startsWith(`${this.session}:`)),
    );
    this.pending.show(row, sum);
  }

  // -- what is not stored --------------------------------------------------------------------------------------------

  touched(events) {
    this.files.touched(events);
    this.asking ??= setTimeout(() => {
      this.asking = null;
      this.pending.load();
    }, 600);
  }

  async retry() {
    try {
      const told = await this.api.json("POST", `/v1/retry?session=${this.session}`);
      tell(`${format.count(told.retried, "file")} tried again.`);
      this.model.soon();
      this.touched([]);
    } catch (error) {
      tell(error.message);
    }
  }

  // -- the flush -----------------------------------------------------------------------------------------------------

  async flush() {
    if (this.busy || !this.model.sessions.has(this.session)) return;
    this.busy = true;
    this.flushing.disabled = true;
    const begun = performance.now();
    const counting = el("span");
    this.receipt.wait(counting);
    const tick = setInterval(() => say(counting, format.span((performance.now() - begun) / 1000)), 200);
    try {
      const proof = (this.model.sessions.get(this.session)?.files ?? 0) <= RECEIPT;
      const report = await this.api.json(
        "POST",
        `/v1/sessions/${this.session}/flush?timeout=300${proof ? "&receipt=1" : ""}`,
      );
      this.receipt.show(report);
    } catch (error) {
      this.receipt.fail(error.message);
    } finally {
      clearInterval(tick);
      this.busy = false;
      this.model.soon();
      if (!this.gone) {
        this.touched([]);
        this.draw();
      }
    }
  }
}
