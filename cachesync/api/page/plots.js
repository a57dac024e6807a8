// Two plots of the last 15 minutes: how much was stored, and how long it took from close to stored.

import { el, put, say, svg } from "./build.js";
import * as format from "./format.js";

const BUCKET = 5;
const SPAN = 900;
const HEIGHT = 132;
const LEFT = 3;
const RIGHT = 64;
const TOP = 8;
const BOTTOM = 20;
const FLOOR = HEIGHT - BOTTOM;

class Plot {
  constructor(title, unit) {
    this.title = title;
    this.readout = el("output", { class: "readout" });
    this.chart = svg("svg", {
      class: "plot",
      role: "img",
      tabindex: "0",
      onpointermove: (event) => this.point(event),
      onpointerleave: () => this.away(),
      onblur: () => this.away(),
      onkeydown: (event) => this.press(event),
    });
    this.axis = el("div", { class: "axis", "aria-hidden": "true" });
    this.cursor = svg("line", { class: "cursor", y1: TOP, y2: FLOOR });
    this.cursor.setAttribute("visibility", "hidden");
    this.element = el(
      "figure",
      { class: "figure" },
      el("figcaption", {}, el("span", {}, title, " ", el("small", {}, unit)), this.readout),
      el("div", { class: "canvas" }, this.chart, this.axis),
    );
  }

  // Buckets by their number on the axis, 0 the oldest.
  draw(buckets, now) {
    this.width = this.chart.clientWidth || 600;
    this.inside = this.width - LEFT - RIGHT;
    // Where there is little room, several buckets are drawn as one.
    const together = [1, 2, 3, 6].find((one) => (this.inside / SPAN) * BUCKET * one >= 2.5) ?? 6;
    this.seconds = BUCKET * together;
    const start = (at) => Math.floor(at / this.seconds) * this.seconds;
    this.end = start(now);
    this.last = SPAN / this.seconds - 1;
    this.step = this.inside / (this.last + 1);
    this.chart.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.places = [];
    for (const bucket of buckets.values()) {
      const number = this.last - (this.end - start(bucket.at)) / this.seconds;
      if (number >= 0 && number <= this.last) this.places[number] = merged(this.places[number], bucket);
    }
    const { marks, lines } = this.paint(this.places);
    put(this.chart, marks, this.cursor);
    put(
      this.axis,
      lines.map(({ at, text }) => this.label("level", text, "top", at / HEIGHT)),
      [15, 10, 5, 0].map((minutes) =>
        this.label(
          "minute",
          minutes ? `−${minutes} min` : "now",
          "left",
          (LEFT + this.inside * (1 - minutes / 15)) / this.width,
        ),
      ),
    );
    this.chart.setAttribute("aria-label", `${this.title}, last 15 minutes: ${this.summary(this.places)}`);
    if (this.pointed === undefined) say(this.readout, this.summary(this.places));
    else this.show(this.pointed);
  }

  label(kind, text, side, share) {
    const label = el("span", { class: kind }, text);
    label.style[side] = `${share * 100}%`;
    return label;
  }

  middle(number) {
    return LEFT + this.step * (number + 0.5);
  }

  level(at) {
    return svg("line", { class: "level", x1: LEFT, x2: LEFT + this.inside, y1: at, y2: at });
  }

  point(event) {
    const box = this.chart.getBoundingClientRect();
    const number = Math.floor((event.clientX - box.left - LEFT) / this.step);
    this.show(Math.max(0, Math.min(this.last, number)));
  }

  press(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.show(Math.max(0, Math.min(this.last, (this.pointed ?? this.last + 1) + step)));
  }

  show(number) {
    this.pointed = number;
    this.cursor.setAttribute("x1", this.middle(number));
    this.cursor.setAttribute("x2", this.middle(number));
    this.cursor.setAttribute("visibility", "visible");
    const at = this.end - (this.last - number) * this.seconds;
    say(this.readout, `${format.clock(at)} · ${this.told(this.places[number])}`);
  }

  away() {
    this.pointed = undefined;
    this.cursor.setAttribute("visibility", "hidden");
    if (this.places) say(this.readout, this.summary(this.places));
  }
}

// Two buckets as one. Of the middle times only the one of more files is known.
function merged(one, other) {
  if (!one) return other;
  const [more, less] = one.stored > other.stored ? [one, other] : [other, one];
  return {
    at: Math.min(one.at, other.at),
    stored: one.stored + other.stored,
    bytes: one.bytes + other.bytes,
    failed: one.failed + other.failed,
    p50: more.p50 ?? less.p50,
    p99: Math.max(one.p99 ?? 0, other.p99 ?? 0) || null,
  };
}

// The least round number of bytes that is not less: 1, 2 or 5 of a power of ten, in its unit.
function round(most) {
  let unit = 1;
  while (most / unit >= 1024) unit *= 1024;
  const step = 10 ** Math.floor(Math.log10(Math.max(1, most / unit)));
  return [1, 2, 5, 10].map((one) => one * step * unit).find((one) => one >= most);
}

export class Throughput extends Plot {
  constructor() {
    super("Stored", "bytes a second");
  }

  paint(places) {
    const rates = places.map((bucket) => bucket.bytes / this.seconds);
    const most = round(Math.max(1024, ...rates.filter(Number.isFinite)));
    const marks = [this.level(TOP), this.level((TOP + FLOOR) / 2), this.level(FLOOR)];
    const width = Math.max(1, this.step - 0.7);
    places.forEach((bucket, number) => {
      const x = this.middle(number) - width / 2;
      if (bucket.stored) {
        const height = Math.max(1.5, ((FLOOR - TOP) * bucket.bytes) / this.seconds / most);
        marks.push(svg("rect", { class: "bar-stored", x, width, y: FLOOR - height, height }));
      }
      if (bucket.failed)
        marks.push(svg("rect", { class: "bar-failed", x, width: width + 0.7, y: FLOOR + 2, height: 5 }));
    });
    return {
      marks,
      lines: [
        { at: TOP, text: `${format.bytes(most)}/s`.replace(".0", "") },
        { at: (TOP + FLOOR) / 2, text: `${format.bytes(most / 2)}/s`.replace(".0", "") },
      ],
    };
  }

  summary(places) {
    let files = 0;
    let bytes = 0;
    let failed = 0;
    for (const bucket of places) {
      files += bucket?.stored ?? 0;
      bytes += bucket?.bytes ?? 0;
      failed += bucket?.failed ?? 0;
    }
    const told = `${format.count(files, "file")}, ${format.bytes(bytes)}`;
    return failed ? `${told}, ${format.count(failed, "failure")}` : told;
  }

  told(bucket) {
    if (!bucket) return "nothing";
    const told = `${format.bytes(bucket.bytes / this.seconds)}/s, ${format.count(bucket.stored, "file")}`;
    return bucket.failed ? `${told}, ${bucket.failed} failed` : told;
  }
}

export class Latency extends Plot {
  constructor() {
    super("Close to stored", "p50 and p99");
  }

  paint(places) {
    const known = places.filter((bucket) => bucket && bucket.p50 !== null);
    const least = Math.min(0.01, ...known.map((bucket) => bucket.p50));
    const most = Math.max(1, ...known.map((bucket) => bucket.p99 ?? bucket.p50));
    const low = Math.floor(Math.log10(Math.max(0.0005, least)));
    const high = Math.ceil(Math.log10(most) - 1e-9);
    const y = (seconds) => FLOOR - ((FLOOR - TOP) * (Math.log10(Math.max(seconds, 10 ** low)) - low)) / (high - low);
    const marks = [];
    const lines = [];
    for (let power = low; power <= high; power += 1) {
      marks.push(this.level(y(10 ** power)));
      lines.push({ at: y(10 ** power), text: power < 0 ? `${10 ** (power + 3)} ms` : `${10 ** power} s` });
    }
    let path = "";
    let before = -2;
    places.forEach((bucket, number) => {
      if (!bucket || bucket.p50 === null) return;
      const x = this.middle(number);
      const middle = y(bucket.p50);
      const slow = y(bucket.p99 ?? bucket.p50);
      path += `${before === number - 1 ? "L" : "M"}${x} ${middle}`;
      before = number;
      marks.push(svg("line", { class: "range", x1: x, x2: x, y1: slow, y2: middle }));
      marks.push(svg("circle", { class: "p99", cx: x, cy: slow, r: 1.8 }));
      marks.push(svg("circle", { class: "p50", cx: x, cy: middle, r: 1.8 }));
    });
    marks.push(svg("path", { class: "p50-line", d: path || "M0 0" }));
    return { marks, lines };
  }

  summary(places) {
    const known = places.filter((bucket) => bucket && bucket.p50 !== null);
    if (!known.length) return "nothing stored";
    const middle = known.map((bucket) => bucket.p50).sort((a, b) => a - b)[Math.floor(known.length / 2)];
    return `typical ${format.span(middle)}, slowest ${format.span(Math.max(...known.map((bucket) => bucket.p99 ?? bucket.p50)))}`;
  }

  told(bucket) {
    if (!bucket || bucket.p50 === null) return "nothing";
    return `p50 ${format.span(bucket.p50)}, p99 ${format.span(bucket.p99 ?? bucket.p50)}`;
  }
}
