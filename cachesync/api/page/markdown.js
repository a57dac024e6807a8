// Markdown as a tree of elements. No markup of the text gets through: HTML in it is shown as what it is, images are named
// and not loaded, and only links to http and https can be followed, by a click and without saying from where.

import { el } from "./build.js";
import { name } from "./format.js";

const DEPTH = 12;

export function markdown(text) {
  const root = el("div", { class: "markdown" });
  blocks(text.replace(/\r\n?/g, "\n").split("\n"), root, 0);
  return root;
}

function blocks(lines, parent, depth) {
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = /^ {0,3}(`{3,}|~{3,})\s*(\S*)/.exec(line);
    const heading = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/.exec(line.slice(0, 2000));
    if (!line.trim()) {
      at += 1;
    } else if (fence) {
      const end = lines.findIndex((other, number) => number > at && other.trimStart().startsWith(fence[1]));
      const inside = lines.slice(at + 1, end < 0 ? lines.length : end);
      parent.append(el("pre", { tabindex: "0" }, el("code", {}, inside.join("\n"))));
      at = end < 0 ? lines.length : end + 1;
    } else if (heading) {
      parent.append(
        inline(heading[2], el(`h${Math.min(6, heading[1].length + 2)}`, { class: `level-${heading[1].length}` }), 0),
      );
      at += 1;
    } else if (/^ {0,3}([-*_])( *\1){2,} *$/.test(line.slice(0, 200))) {
      parent.append(el("hr"));
      at += 1;
    } else if (/^ {0,3}>/.test(line) && depth < DEPTH) {
      const inside = [];
      for (; at < lines.length && lines[at].trim() && (/^ {0,3}>/.test(lines[at]) || inside.length); at += 1)
        inside.push(lines[at].replace(/^ {0,3}> ?/, ""));
      const quote = el("blockquote");
      blocks(inside, quote, depth + 1);
      parent.append(quote);
    } else if (item(line) && depth < DEPTH) {
      at = list(lines, at, parent, depth);
    } else if (isTable(lines, at)) {
      at = table(lines, at, parent);
    } else {
      const inside = [];
      do inside.push(lines[at++]);
      while (
        at < lines.length &&
        lines[at].trim() &&
        !/^ {0,3}(#{1,6}\s|>|`{3}|~{3})/.test(lines[at]) &&
        !item(lines[at])
      );
      parent.append(inline(inside.map((one) => one.trim()).join("\n"), el("p"), 0));
    }
  }
}

function item(line) {
  return /^( *)([-*+]|\d{1,9}[.)])( +|$)/.exec(line);
}

function list(lines, at, parent, depth) {
  const first = item(lines[at]);
  const ordered = /\d/.test(first[2]);
  const element = el(
    ordered ? "ol" : "ul",
    ordered && parseInt(first[2], 10) !== 1 ? { start: parseInt(first[2], 10) } : {},
  );
  const indent = first[1].length;
  while (at < lines.length) {
    const found = item(lines[at]);
    if (!found || found[1].length < indent || found[1].length > indent + 1 || /\d/.test(found[2]) !== ordered) break;
    const width = found[0].length;
    const inside = [lines[at].slice(width)];
    at += 1;
    for (; at < lines.length; at += 1) {
      const other = item(lines[at]);
      const blank = !lines[at].trim();
      const deep = /^ */.exec(lines[at])[0].length;
      if (other && other[1].length <= indent + 1) break;
      if (
        blank &&
        (at + 1 >= lines.length || /^ */.exec(lines[at + 1])[0].length <= indent) &&
        !item(lines[at + 1] ?? "")
      )
        break;
      if (!blank && !other && deep <= indent && !inside.at(-1).trim()) break;
      inside.push(blank ? "" : lines[at].slice(Math.min(width, deep)));
    }
    while (at < lines.length && !lines[at].trim() && item(lines[at + 1] ?? "")?.[1].length === indent) at += 1;
    const task = /^\[([ xX])\] /.exec(inside[0]);
    if (task) inside[0] = inside[0].slice(4);
    const entry = el(
      "li",
      task ? { class: "task" } : {},
      task
        ? el(
            "span",
            { class: "box", role: "img", "aria-label": task[1] === " " ? "to do" : "done" },
            task[1] === " " ? "☐" : "☑",
          )
        : null,
    );
    const simple = inside.findIndex(
      (one, number) => number > 0 && (!one.trim() || item(one) || /^(`{3}|~{3}|>|#)/.test(one)),
    );
    inline(
      inside
        .slice(0, simple < 0 ? inside.length : simple)
        .map((one) => one.trim())
        .join("\n"),
      entry,
      0,
    );
    if (simple >= 0) blocks(inside.slice(simple), entry, depth + 1);
    element.append(entry);
  }
  parent.append(element);
  return at;
}

function cells(line) {
  return line
    .trim()
    .replace(/^\|/, "")
    .replace(/\|$/, "")
    .split("|")
    .slice(0, 64)
    .map((cell) => cell.trim());
}

function isTable(lines, at) {
  return (
    lines[at].includes("|") &&
    at + 1 < lines.length &&
    lines[at + 1].includes("-") &&
    cells(lines[at + 1]).every((cell) => /^:?-+:?$/.test(cell))
  );
}

function table(lines, at, parent) {
  const head = el(
    "tr",
    {},
    cells(lines[at]).map((cell) => inline(cell, el("th", { scope: "col" }), 0)),
  );
  const body = el("tbody");
  for (at += 2; at < lines.length && lines[at].includes("|"); at += 1)
    body.append(
      el(
        "tr",
        {},
        cells(lines[at]).map((cell) => inline(cell, el("td"), 0)),
      ),
    );
  parent.append(
    el(
      "div",
      { class: "table", tabindex: "0", role: "region", "aria-label": "Table" },
      el("table", {}, el("thead", {}, head), body),
    ),
  );
  return at;
}

// Each pattern is tried where its first character stands, on a piece of bounded length: no text makes this slow.
const REACH = 1000;
const SPANS = [
  [/^\\([!-/:-@[-`{-~])/, (found, into) => into.append(found[1])],
  [/^(`+)([^`][\s\S]*?)\1(?!`)/, (found, into) => into.append(el("code", {}, found[2].trim()))],
  [
    /^!\[([^\]\n]*)\]\(([^)\s]*)[^)\n]*\)/,
    (found, into) =>
      into.append(
        el("span", { class: "not-loaded", title: name(found[2]) }, `image, not loaded: ${name(found[1] || found[2])}`),
      ),
  ],
  [/^\[([^\]\n]+)\]\(<?([^)\s>]*)>?[^)\n]*\)/, (found, into, depth) => into.append(link(found[2], found[1], depth))],
  [/^<(https?:\/\/[^\s<>]+)>/, (found, into, depth) => into.append(link(found[1], found[1], depth))],
  [
    /^https?:\/\/[^\s<>()[\]"'`]*[^\s<>()[\]"'`.,;:!?]/,
    (found, into, depth) => into.append(link(found[0], found[0], depth)),
  ],
  [/^(\*\*|__)(?=\S)([\s\S]*?\S)\1/, (found, into, depth) => into.append(inline(found[2], el("strong"), depth + 1))],
  [/^(\*|_)(?=\S)([^*_]*?[^\s*_])\1/, (found, into, depth) => into.append(inline(found[2], el("em"), depth + 1))],
  [/^~~(?=\S)([^~]*?\S)~~/, (found, into, depth) => into.append(inline(found[1], el("del"), depth + 1))],
  [/^(?: {2,}|\\)?\n/, (found, into) => into.append(found[0].length > 1 ? el("br") : "\n")],
];
const STARTS = /[\\`![<*_~\nh ]/;

function inline(text, into, depth) {
  let at = 0;
  let plain = "";
  while (at < text.length) {
    const here = text[at];
    let found = null;
    if (
      depth < DEPTH &&
      STARTS.test(here) &&
      (here !== "_" || !/\w/.test(text[at - 1] ?? "")) &&
      (here !== "h" || text.startsWith("http", at)) &&
      (here !== " " || text[at + 1] === " ")
    ) {
      const piece = text.slice(at, at + REACH);
      for (const [pattern, make] of SPANS) {
        found = pattern.exec(piece);
        if (found) {
          if (plain) into.append(plain);
          plain = "";
          make(found, into, depth);
          at += found[0].length;
          break;
        }
      }
    }
    if (!found) {
      plain += here;
      at += 1;
    }
  }
  if (plain) into.append(plain);
  return into;
}

function link(target, text, depth) {
  let url = null;
  try {
    url = new URL(target);
  } catch {
    // Relative: it leads to nothing from here.
  }
  const inside = el("span");
  if (text === target) inside.append(name(text));
  else inline(text, inside, depth + 1);
  if (!url || !/^https?:$/.test(url.protocol)) return el("span", { class: "dead", title: name(target) }, inside);
  const a = el(
    "a",
    { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", referrerpolicy: "no-referrer" },
    inside,
  );
  return text.includes(url.host) ? a : el("span", {}, a, el("small", { class: "host" }, ` ${url.host}`));
}
