// What is in an artifact, without letting it do anything: its bytes become text, or an image of a blob, and nothing else.

import { el, facts, put, save, tell } from "./build.js";
import * as format from "./format.js";
import { markdown } from "./markdown.js";

const SHOWN = 256 * 1024;
const IMAGE = 16 * 1024 * 1024;
const SAVED = 64 * 1024 * 1024;
const COLOURED = 64 * 1024;
const IMAGES = {
  png: "image/png",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  gif: "image/gif",
  webp: "image/webp",
  avif: "image/avif",
  bmp: "image/bmp",
  ico: "image/x-icon",
  svg: "image/svg+xml",
};

export class Preview {
  constructor(api) {
    this.api = api;
    this.title = el("h3", { tabindex: "-1" });
    this.facts = el("div");
    this.news = el(
      "p",
      { class: "news", hidden: true },
      "It changed since. ",
      el(
        "button",
        { class: "quiet", type: "button", onclick: () => this.show(this.address, this.item, this.onLeave) },
        "Show it anew",
      ),
    );
    this.tools = el("div", { class: "actions" });
    this.extra = el("div", { class: "extra" });
    this.body = el("div", { class: "content" });
    this.element = el(
      "article",
      { class: "preview", hidden: true, "aria-label": "Preview" },
      el(
        "div",
        { class: "head" },
        this.title,
        el(
          "button",
          { class: "quiet", type: "button", "aria-label": "Close the preview", onclick: () => this.onLeave?.() },
          "✕",
        ),
      ),
      this.facts,
      this.tools,
      this.news,
      this.extra,
      this.body,
    );
  }

  clear() {
    this.leaving?.abort();
    this.address = null;
    this.element.hidden = true;
    this.release();
    put(this.body);
  }

  close() {
    this.clear();
  }

  release() {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = null;
  }

  changed() {
    this.news.hidden = false;
  }

  describe(item) {
    this.item = item;
    const state =
      { dirty: "not stored yet", failed: "cannot be stored", evicted: "in the store only" }[item.state] ?? "stored";
    const opened = this.facts.querySelector("details")?.open ?? false;
    const words = [
      state,
      item.kind === "file" ? format.bytes(item.size) : "",
      item.content_type ?? "",
      item.modified ? `changed ${format.moment(item.modified)}` : "",
      this.source ? `read from ${this.source}` : "",
    ];
    const more = el(
      "details",
      { open: opened },
      el("summary", {}, "Version and checksum"),
      facts([
        ["version", item.version],
        ["version id", item.version_id],
        ["sha256", item.sha256],
        ["key", item.key],
        ["leads to", item.target],
      ]),
    );
    put(
      this.facts,
      el(
        "p",
        { class: "small" },
        words
          .filter(Boolean)
          .map((word) => format.name(word))
          .join(" · "),
      ),
      more,
    );
  }

  async show(address, item, onLeave) {
    this.leaving?.abort();
    const leaving = (this.leaving = new AbortController());
    this.address = address;
    this.onLeave = onLeave;
    this.source = "";
    this.element.hidden = false;
    this.news.hidden = true;
    const name = address.split("/").at(-1);
    put(this.title, el("bdi", {}, format.name(name)));
    put(this.extra);
    put(this.facts);
    put(
      this.tools,
      el("button", { type: "button", onclick: () => this.link() }, "Copy a link"),
      el("button", { type: "button", onclick: () => this.history() }, "History"),
      el("button", { type: "button", onclick: () => this.save(name) }, "Save"),
    );
    if (item) this.describe(item);
    put(this.body, el("p", { class: "empty" }, "Reading…"));
    if (item?.kind === "link") {
      put(this.body, el("p", { class: "empty" }, "A symbolic link. It is stored as one, and never followed."));
      return;
    }
    try {
      const described = await this.api.json("GET", `/v1/artifacts/${format.encoded(address)}?describe=1`, {
        signal: leaving.signal,
      });
      this.source = { local: "the root", cache: "the cache", store: "the store" }[described.source] ?? described.source;
      if (described.unverified) this.source += ", unverified: the store does not answer";
      this.describe({ ...described.artifact });
      const kind = name.includes(".") ? name.split(".").at(-1).toLowerCase() : "";
      const most = IMAGES[kind] && described.artifact.size <= IMAGE ? IMAGE : SHOWN;
      const found = described.artifact.size
        ? await this.api.bytes(address, most, { signal: leaving.signal })
        : { data: new Uint8Array(), size: 0 };
      if (leaving.signal.aborted) return;
      this.render(kind, found);
    } catch (error) {
      if (!leaving.signal.aborted) put(this.body, el("p", { class: "empty", role: "alert" }, error.message));
    }
  }

  render(kind, { data, size }) {
    this.release();
    const cut =
      data.length < size
        ? el("p", { class: "cut" }, `The first ${format.bytes(data.length)} of ${format.bytes(size)}.`)
        : null;
    if (!data.length) {
      put(this.body, el("p", { class: "empty" }, "An empty file."));
    } else if (IMAGES[kind] && !cut) {
      this.image(IMAGES[kind], data, kind === "svg");
    } else {
      const text = asText(data, Boolean(cut));
      if (text === null) put(this.body, cut, hex(data));
      else this.text(kind, text, cut);
    }
  }

  // An image of a blob runs no script and loads nothing, also where it is SVG.
  image(type, data, source) {
    this.url = URL.createObjectURL(new Blob([data], { type }));
    const image = el("img", {
      src: this.url,
      alt: format.name(this.address.split("/").at(-1)),
      onerror: () => put(this.body, el("p", { class: "empty" }, "It is no image that this browser knows."), hex(data)),
    });
    const text = source ? asText(data, false) : null;
    this.either(
      image,
      text === null ? null : ["Image", "Source", () => el("pre", { tabindex: "0" }, text.slice(0, SHOWN))],
    );
  }

  text(kind, text, cut) {
    const source = () => el("pre", { tabindex: "0", "aria-label": "The file's text" }, text);
    if (kind === "md" || kind === "markdown") return this.either(markdown(text), ["Rendered", "Source", source], cut);
    if (kind === "json" && !cut) {
      try {
        const pretty = JSON.stringify(JSON.parse(text), null, 2);
        return this.either(json(pretty), ["Pretty", "Source", source]);
      } catch {
        // It only has the name of JSON.
      }
    }
    return put(this.body, cut, source());
  }

  // Two ways to look at it, the first one first.
  either(first, other, cut = null) {
    if (!other) return put(this.body, cut, first);
    const [name, otherName, make] = other;
    const place = el("div", {}, first);
    let made = null;
    const pick = (number) => {
      buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(at === number)));
      put(place, number ? (made ??= make()) : first);
    };
    const buttons = [name, otherName].map((text, number) =>
      el("button", { type: "button", "aria-pressed": String(!number), onclick: () => pick(number) }, text),
    );
    return put(
      this.body,
      el("div", { class: "switch", role: "group", "aria-label": "How to show it" }, buttons),
      cut,
      place,
    );
  }

  async link() {
    try {
      const told = await this.api.json("POST", `/v1/url/${format.encoded(this.address)}?expires=3600`);
      const field = el("input", {
        class: "url",
        readonly: true,
        value: told.url,
        "aria-label": "The link",
        onfocus: (event) => event.target.select(),
      });
      put(this.extra, el("p", {}, "Anybody who has this link can read it for an hour."), field);
      field.focus();
      await navigator.clipboard.writeText(told.url);
      tell("Copied. It works for an hour.");
    } catch (error) {
      if (error.told) put(this.extra, el("p", { role: "alert" }, error.message));
      else tell("The browser does not let this page copy; the link is selected.");
    }
  }

  async history() {
    try {
      const { versions } = await this.api.json("GET", `/v1/history/${format.encoded(this.address)}`);
      put(
        this.extra,
        el("h4", {}, format.count(versions.length, "version")),
        el(
          "ol",
          { class: "versions" },
          versions
            .slice(0, 100)
            .map((one) =>
              el(
                "li",
                {},
                el("time", {}, format.moment(one.modified)),
                el("span", {}, one.deleted ? "deleted" : format.bytes(one.size)),
                el(
                  "code",
                  { title: one.version_id ?? one.version ?? "" },
                  (one.version_id ?? one.version ?? "").slice(0, 16),
                ),
                el("span", {}, one.latest ? "newest" : ""),
              ),
            ),
        ),
      );
    } catch (error) {
      put(this.extra, el("p", { role: "alert" }, error.message));
    }
  }

  async save(name) {
    if ((this.item?.size ?? 0) > SAVED) {
      tell(`It is larger than ${format.bytes(SAVED)}: take a link, or cachesync get.`);
      return;
    }
    try {
      const { data } = await this.api.bytes(this.address, SAVED);
      save(name, new Blob([data], { type: "application/octet-stream" }));
    } catch (error) {
      tell(error.message);
    }
  }
}

// The bytes as text, or null if they are none. A character that was cut in two at the end is left out.
function asText(data, cut) {
  if (data.subarray(0, 8192).includes(0)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(data, { stream: cut });
  } catch {
    return null;
  }
}

function hex(data) {
  const lines = [];
  for (let at = 0; at < Math.min(data.length, 1024); at += 16) {
    const row = [...data.subarray(at, at + 16)];
    const numbers = row
      .map((one) => one.toString(16).padStart(2, "0"))
      .join(" ")
      .padEnd(47);
    lines.push(
      `${at.toString(16).padStart(6, "0")}  ${numbers}  ${row.map((one) => (one > 31 && one < 127 ? String.fromCharCode(one) : "·")).join("")}`,
    );
  }
  return el(
    "div",
    {},
    el("p", { class: "cut" }, `Not text. ${data.length > 1024 ? "Its first 1 KiB:" : ""}`),
    el("pre", { tabindex: "0", class: "hex" }, lines.join("\n")),
  );
}

const TOKENS = /("(?:[^"\\\n]|\\.)*")(\s*:)?|\b(?:true|false|null)\b|-?\d[\d.eE+-]*/g;

function json(text) {
  const pre = el("pre", { tabindex: "0", class: "json", "aria-label": "The file as JSON" });
  if (text.length > COLOURED) return put(pre, text);
  let at = 0;
  for (const found of text.matchAll(TOKENS)) {
    const kind = found[2] ? "key" : found[1] ? "string" : "value";
    pre.append(text.slice(at, found.index), el("span", { class: kind }, found[1] ?? found[0]), found[2] ?? "");
    at = found.index + found[0].length;
  }
  pre.append(text.slice(at));
  return pre;
}
