// The artifacts of a session: one level at a time, each with a preview, its history and a link.

import { el, put, say } from "./build.js";
import * as format from "./format.js";
import { List } from "./list.js";
import { Preview } from "./preview.js";

const STATES = { dirty: "waiting", failed: "failed", evicted: "evicted" };

export class Files {
  constructor(api, go, session, path) {
    this.api = api;
    this.go = go;
    this.session = session;
    this.items = [];
    this.filter = el("input", {
      class: "filter",
      type: "search",
      placeholder: "Filter",
      "aria-label": "Filter the artifacts",
      spellcheck: "false",
      oninput: () => this.show(),
    });
    this.crumbs = el("nav", { class: "crumbs", "aria-label": "Folder" });
    this.count = el("span", { class: "small" });
    this.list = new List({
      label: "Artifacts",
      height: 40,
      key: (item) => item.address,
      row: (item) => fileRow(item),
      open: (item) => this.open(item),
    });
    this.preview = new Preview(api);
    this.element = el(
      "section",
      { class: "files", "aria-label": "Artifacts" },
      el("div", { class: "head" }, el("h2", {}, "Artifacts"), this.count, this.filter),
      this.crumbs,
      el("div", { class: "panes" }, this.list.element, this.preview.element),
    );
    this.at(path);
  }

  close() {
    this.leaving?.abort();
    clearTimeout(this.again);
    this.list.close();
    this.preview.close();
  }

  // Where the page's address leads: a folder, which ends in "/", or a file in one.
  at(path) {
    const folder = path.slice(0, path.lastIndexOf("/") + 1);
    const file = path.slice(folder.length);
    this.chosen = file ? `${this.session}/${path}` : null;
    this.crumbs_(folder);
    if (folder !== this.folder) {
      this.folder = folder;
      this.items = [];
      this.filter.value = "";
      this.load(true);
    } else {
      this.show();
    }
    this.element.classList.toggle("previewing", Boolean(this.chosen));
    if (this.chosen)
      this.preview.show(
        this.chosen,
        this.items.find((item) => item.address === this.chosen),
        () => this.leave(),
      );
    else this.preview.clear();
  }

  leave() {
    this.go(`/${this.session}/${format.encoded(this.folder)}`);
    this.list.box.focus();
  }

  up() {
    if (this.chosen) this.leave();
    else if (this.folder)
      this.go(
        `/${this.session}/${format.encoded(this.folder.slice(0, this.folder.slice(0, -1).lastIndexOf("/") + 1))}`,
      );
    else return false;
    return true;
  }

  crumbs_(folder) {
    const parts = folder.split("/").filter(Boolean);
    const link = (text, depth) =>
      el(
        "a",
        {
          href: `#/${this.session}/${format.encoded(
            parts
              .slice(0, depth)
              .map((part) => `${part}/`)
              .join(""),
          )}`,
        },
        el("bdi", {}, format.name(text)),
      );
    put(
      this.crumbs,
      link(this.session, 0),
      parts.map((part, number) => [el("span", { "aria-hidden": "true" }, " / "), link(part, number + 1)]).flat(),
    );
  }

  open(item) {
    const path = item.address.slice(this.session.length + 1);
    const folder = item.kind === "dir" && !path.endsWith("/") ? "/" : "";
    this.go(`/${this.session}/${format.encoded(path)}${folder}`);
  }

  // Some events were about this session: list the folder again soon, if it may be another one now.
  touched(events) {
    if (events.some((event) => event.kind !== "dirty" && `${this.session}/${event.path}` === this.chosen))
      this.preview.changed();
    this.again ??= setTimeout(
      () => {
        this.again = null;
        this.load(false);
      },
      Math.max(1500, 10 * (this.took ?? 0)),
    );
  }

  async load(fresh) {
    this.leaving?.abort();
    const leaving = (this.leaving = new AbortController());
    const begun = performance.now();
    const folder = this.folder;
    const self = `${this.session}/${folder.slice(0, -1)}`;
    const found = [];
    if (fresh) {
      this.list.show([], "Listing…");
      this.trouble = "";
    }
    try {
      const target = `/v1/list/${this.session}${folder ? `/${format.encoded(folder)}` : ""}?shallow=1`;
      for await (const items of this.api.lines(target, { signal: leaving.signal })) {
        found.push(...items.filter((item) => item.address !== self)); // the folder lists itself
        if (fresh) {
          this.items = sorted(found);
          this.show();
        }
      }
      this.trouble = "";
    } catch (error) {
      if (leaving.signal.aborted) return;
      this.trouble = error.status === 404 ? (folder ? "There is nothing here." : "No file yet.") : error.message;
    }
    this.took = performance.now() - begun;
    this.items = sorted(found);
    this.show();
    const item = this.items.find((one) => one.address === this.chosen);
    if (item) this.preview.describe(item);
  }

  show() {
    const sought = this.filter.value.trim().toLowerCase();
    const items = sought ? this.items.filter((item) => shortName(item).toLowerCase().includes(sought)) : this.items;
    say(
      this.count,
      sought
        ? `${format.plain(items.length)} of ${format.plain(this.items.length)}`
        : this.items.length
          ? format.plain(this.items.length)
          : "",
    );
    this.list.show(items, this.trouble || (sought ? "Nothing has that in its name." : "There is nothing here."));
    const number = items.findIndex((item) => item.address === this.chosen);
    if (number >= 0 && this.list.at !== number) this.list.choose(number);
  }
}

function shortName(item) {
  return item.address.replace(/\/$/, "").split("/").at(-1);
}

function sorted(items) {
  return [...items].sort(
    (a, b) => Number(b.kind === "dir") - Number(a.kind === "dir") || (a.address < b.address ? -1 : 1),
  );
}

function fileRow(item) {
  const folder = item.kind === "dir";
  const mood = STATES[item.state] ?? "stored";
  const word = { dirty: "not stored yet", failed: "cannot be stored", evicted: "in the store only" }[item.state];
  return [
    el("i", { class: folder ? "dot folder" : "dot", data: { mood }, title: word ?? "stored" }),
    el(
      "span",
      { class: "name", title: format.name(shortName(item)) },
      el("bdi", {}, format.name(shortName(item))),
      folder ? "/" : "",
      item.kind === "link" ? ` → ${format.name(item.target ?? "")}` : "",
      el("span", { class: "unseen" }, word ? `, ${word}` : ""),
    ),
    el("span", { class: "size" }, folder ? "" : format.bytes(item.size)),
    el("time", {}, folder || !item.modified ? "" : format.moment(item.modified).slice(0, 16)),
  ];
}
