// What of a session is not stored yet, path by path, and why: those that failed first, then a page of the others at a time.

import { el, facts, put, say, tell } from "./build.js";
import * as format from "./format.js";
import { List } from "./list.js";

const PAGE = 200;
const SHOWN = 6; // rows in sight

export class Pending {
  constructor(api, session, changed) {
    this.api = api;
    this.session = session;
    this.changed = changed;
    this.count = el("span", { class: "small" });
    this.list = new List({
      label: "Not stored yet",
      height: 52,
      key: (story) => story.path,
      row: pendingRow,
      open: (story) => this.explain(story),
      more: () => this.more(),
      fit: () => {
        this.element.hidden = this.none;
        this.element.style.setProperty("--rows", Math.min(SHOWN, this.list.items.length));
      },
    });
    this.none = true;
    this.story = el("div", { class: "story", hidden: true });
    this.element = el(
      "section",
      { class: "waiting", hidden: true },
      el("div", { class: "head" }, el("h2", {}, "Not stored yet"), this.count),
      this.list.element,
      this.story,
    );
  }

  close() {
    this.list.close();
  }

  async load() {
    const ask = (failed) => this.api.json("GET", `/v1/pending/${this.session}?failed=${failed}&limit=${PAGE}`);
    try {
      const [failed, others] = await Promise.all([ask(1), ask(0)]);
      this.stories = { failed: failed.pending, others: others.pending, more: others.more };
    } catch {
      this.stories = null; // the status has the causes of some
    }
    this.changed();
  }

  async more() {
    if (!this.stories?.more || this.paging) return;
    this.paging = true;
    try {
      const after = this.stories.others.at(-1)?.path ?? "";
      const told = await this.api.json(
        "GET",
        `/v1/pending/${this.session}?failed=0&limit=${PAGE}&after=${format.encoded(after, "")}`,
      );
      this.stories.others.push(...told.pending);
      this.stories.more = told.more;
      this.changed();
    } catch {
      this.stories.more = false;
    } finally {
      this.paging = false;
    }
  }

  show(row, sum) {
    const stories = this.stories ?? { failed: [], others: [] };
    const listed = new Set(stories.failed.map((story) => format.name(story.path)));
    // What no entry stands for: a name that cannot be stored, a file that cannot be read, a directory that is gone.
    const besides = (row?.failures ?? [])
      .filter((one) => !listed.has(format.name(one.path)))
      .map((one) => ({ path: one.path, state: "failed", error: one.error, bare: true }));
    const items = [...besides, ...stories.failed, ...stories.others];
    this.none = !items.length || (!sum.dirty && !sum.failed);
    const most = this.none ? 0 : Math.max(sum.dirty, items.length);
    say(
      this.count,
      most > items.length ? `${format.plain(items.length)} of ${format.plain(most)}` : format.plain(items.length),
    );
    this.list.show(items);
  }

  async explain(story) {
    if (story.bare) {
      this.tellStory(story.path, [
        ["state", "failed"],
        ["waits for", story.error],
      ]);
      return;
    }
    try {
      const told = await this.api.json("GET", `/v1/explain/${this.session}/${format.encoded(story.path)}`);
      const rows = [
        ["state", told.state],
        ["waits for", told.error ?? (told.state === "dirty" ? "its upload" : "")],
        ["changed", format.moment(told.dirty_since)],
        ["tries", told.attempts || ""],
        ["last try", format.moment(told.tried_at)],
        ["next try", told.dirty_since ? format.moment(told.due_at) : ""],
        ["stored", told.stored_at ? `${format.moment(told.stored_at)}, version ${told.version}` : "never"],
        ["key", told.key],
      ];
      this.tellStory(story.path, rows);
    } catch (error) {
      tell(error.message);
    }
  }

  tellStory(path, rows) {
    put(this.story, el("h3", {}, el("bdi", {}, format.name(path))), facts(rows));
    this.story.hidden = false;
  }
}

function pendingRow(story) {
  const failed = story.state === "failed";
  const now = Date.now() / 1000;
  const words = [];
  if (story.error) words.push(format.name(story.error));
  else if (story.state.startsWith("deleted")) words.push("its deletion is under way");
  else if (story.kind === "link") words.push("a link: the next flush lists it");
  else words.push(story.due_at > now + 0.5 ? `due in ${format.span(story.due_at - now)}` : "its upload is under way");
  if (story.attempts)
    words.push(
      `${format.count(story.attempts, "try", "tries")}${story.due_at > now + 0.5 && story.error ? `, the next in ${format.span(story.due_at - now)}` : ""}`,
    );
  return [
    el("i", { class: "dot", data: { mood: failed ? "failed" : "waiting" }, "aria-hidden": "true" }),
    el("span", { class: "name", title: format.name(story.path) }, el("bdi", {}, format.name(story.path))),
    el("span", { class: "size" }, format.bytes(story.size)),
    el(
      "span",
      { class: "cause", title: words.join(" · ") },
      failed ? el("b", {}, "cannot be stored: ") : null,
      words.join(" · "),
    ),
  ];
}
