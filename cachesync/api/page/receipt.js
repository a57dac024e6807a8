// What a flush answered, and the proof of each file.

import { el, facts, put, save } from "./build.js";
import * as format from "./format.js";
import { List } from "./list.js";

export class Receipt {
  constructor(session, closed) {
    this.session = session;
    this.closed = closed;
    this.element = el("section", {
      class: "receipt",
      hidden: true,
      tabindex: "-1",
      "aria-label": "Receipt of the flush",
    });
  }

  close() {
    this.proofs?.close();
    this.proofs = null;
  }

  // Whether there was anything to hide.
  hide() {
    if (this.element.hidden || this.element.dataset.mood === "busy") return false;
    this.element.hidden = true;
    this.close();
    this.closed();
    return true;
  }

  // While the flush is under way.
  wait(counting) {
    this.element.hidden = false;
    this.element.dataset.mood = "busy";
    put(
      this.element,
      el("p", { role: "status" }, "Flushing: everything that changed before now is being stored. ", counting),
    );
  }

  fail(message) {
    this.element.dataset.mood = "failed";
    put(this.element, el("p", { role: "alert" }, `The flush did not end: ${message}`), this.closer());
  }

  closer() {
    return el("button", { class: "quiet", type: "button", onclick: () => this.hide() }, "Close");
  }

  show(report) {
    this.close();
    this.element.dataset.mood = report.stored ? "stored" : report.failed.length ? "failed" : "waiting";
    const head = report.stored
      ? "Stored."
      : report.failed.length
        ? "Something cannot be stored."
        : "Not all of it in time.";
    const parts = [
      report.stored ? `${format.count(report.files, "file")}, ${format.bytes(report.bytes)}` : "",
      report.uploaded ? `${format.plain(report.uploaded)} sent now` : report.stored ? "nothing had to be sent" : "",
      report.deleted ? `${format.plain(report.deleted)} deleted` : "",
      `in ${format.span(report.seconds)}`,
    ];
    const lists = [
      ["Cannot be stored", report.failed, "error"],
      ["Not stored yet", report.pending, "reason"],
      ["Other writers' bytes", report.conflicts, "kept_as"],
      ["Left out", report.skipped, "reason"],
    ].filter(([, rows]) => rows.length);
    const entries = report.entries ?? [];
    this.proofs = entries.length
      ? new List({ label: "The proof of each file", height: 34, key: (line) => line.path, row: proofRow })
      : null;
    put(
      this.element,
      el(
        "div",
        { class: "head", role: "status" },
        el("h2", {}, head),
        el("span", { class: "small" }, parts.filter(Boolean).join(", ")),
      ),
      report.manifest ? facts([["manifest", report.manifest]]) : null,
      lists.map(([title, rows, why]) =>
        el(
          "div",
          { class: "why" },
          el("h3", {}, `${title} (${format.plain(rows.length)})`),
          el(
            "ul",
            {},
            rows
              .slice(0, 50)
              .map((one) =>
                el("li", {}, el("bdi", {}, format.name(one.path)), el("span", {}, format.name(String(one[why])))),
              ),
          ),
        ),
      ),
      this.proofs?.element,
      el(
        "div",
        { class: "actions" },
        el(
          "button",
          { type: "button", onclick: () => save(`${this.session}.receipt.json`, JSON.stringify(report, null, 2)) },
          "Save the receipt",
        ),
        this.closer(),
      ),
    );
    this.proofs?.show(entries);
    this.element.focus({ preventScroll: true });
  }
}

function proofRow(line) {
  return [
    el("span", { class: "name", title: format.name(line.path) }, el("bdi", {}, format.name(line.path))),
    el("span", { class: "size" }, format.bytes(line.size)),
    el("code", { class: "sum", title: `sha256 ${line.sha256 ?? ""}` }, (line.sha256 ?? "").slice(0, 12)),
    el(
      "code",
      { class: "sum", title: `version ${line.version_id ?? line.version}` },
      String(line.version_id ?? line.version).slice(0, 12),
    ),
  ];
}
