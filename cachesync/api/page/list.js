// A list of any length of which only the rows in sight are in the document. One stop for the Tab key; arrows move in it.

import { el, say } from "./build.js";

const SPARE = 8;
const PRESS = 10_000; // ms: a press whose end nobody tells of keeps the rows no longer
const CLICK = 350; // ms: on a touch screen the click may come that much after the finger has left
const STILL = 5; // pixels

export class List {
  // `row(item)` makes what a row shows; `key(item)` names it; `open(item)` is what Enter and a click do; `fit()` is
  // called before it is drawn, for what around it changes with its rows.
  constructor({ label, height, row, key, open, more, fit, empty }) {
    this.height = height;
    this.row = row;
    this.key = key;
    this.open = open;
    this.more = more;
    this.fit = fit;
    this.empty = empty;
    this.items = [];
    this.at = -1;
    this.shown = new WeakMap(); // what each row in the document stands for
    this.id = `list-${(List.made = (List.made ?? 0) + 1)}`;
    this.inner = el("div", { class: "rows", role: "presentation" });
    this.box = el(
      "div",
      {
        class: "list",
        role: "listbox",
        tabindex: "0",
        "aria-label": label,
        onscroll: () => this.scrolled(),
        onkeydown: (event) => this.press(event),
        onpointerdown: (event) => this.hold(event),
        onclick: (event) => this.click(event),
        onfocus: () => this.at < 0 && this.items.length && this.choose(0, false),
      },
      this.inner,
    );
    this.note = el("p", { class: "empty", hidden: true });
    this.element = el("div", { class: "list-frame" }, this.box, this.note);
    this.watch = new ResizeObserver(() => this.later());
    this.watch.observe(this.box);
  }

  show(items, note = this.empty ?? "") {
    const chosen = this.items[this.at];
    this.items = items;
    if (chosen) this.at = items.findIndex((item) => this.key(item) === this.key(chosen));
    this.says = note;
    this.drawn = null;
    this.later();
  }

  rowHeight() {
    return typeof this.height === "function" ? this.height() : this.height;
  }

  later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (!this.release) this.draw();
    });
  }

  // From press to click the rows stay as they are: of a row that went in between, browsers tell no click, and none if
  // the list itself has moved away under a pointer that stood still. Whoever scrolls or types has given the press up.
  hold(event) {
    const item = this.shown.get(event.target.closest(".row"));
    if (event.button !== 0 || !item) return;
    this.release?.();
    const hearing = new AbortController();
    let timer = setTimeout(() => this.release?.(), PRESS);
    this.release = () => {
      clearTimeout(timer);
      hearing.abort();
      this.release = this.pressed = null;
      this.later();
    };
    const hear = (what, act) =>
      addEventListener(what, (other) => other.pointerId === event.pointerId && act(other), {
        capture: true,
        signal: hearing.signal,
      });
    hear("pointercancel", () => this.release?.());
    addEventListener("blur", () => this.release?.(), { signal: hearing.signal }); // the end is told elsewhere
    hear("pointerup", (up) => {
      clearTimeout(timer);
      const mouse = up.pointerType === "mouse"; // whose click comes at once
      if (Math.hypot(up.clientX - event.clientX, up.clientY - event.clientY) < STILL) this.pressed = item;
      timer = setTimeout(() => (mouse && this.pressed ? this.click(up) : this.release?.()), mouse ? 0 : CLICK);
    });
  }

  scrolled() {
    this.release?.();
    this.later();
  }

  draw() {
    const height = this.rowHeight();
    this.fit?.();
    this.inner.style.height = `${this.items.length * height}px`;
    this.box.hidden = !this.items.length;
    this.note.hidden = Boolean(this.items.length) || !this.says;
    say(this.note, this.says ?? "");
    if (this.following) this.follow(height);
    const first = Math.max(0, Math.floor(this.box.scrollTop / height) - SPARE);
    const last = Math.min(this.items.length, Math.ceil((this.box.scrollTop + this.box.clientHeight) / height) + SPARE);
    const sight = `${first}-${last}-${this.at}`;
    if (this.drawn !== sight) {
      this.drawn = sight;
      this.inner.replaceChildren(
        ...this.items.slice(first, last).map((item, number) => this.option(item, first + number, height)),
      );
    }
    if (this.more && last >= this.items.length - SPARE) this.more();
  }

  option(item, number, height) {
    const chosen = number === this.at;
    const option = el(
      "div",
      {
        class: chosen ? "row chosen" : "row",
        role: "option",
        id: `${this.id}-${number}`,
        "aria-selected": String(chosen),
        "aria-setsize": this.items.length,
        "aria-posinset": number + 1,
      },
      this.row(item),
    );
    this.shown.set(option, item);
    option.style.height = `${height}px`;
    option.style.transform = `translateY(${number * height}px)`;
    if (chosen) this.box.setAttribute("aria-activedescendant", option.id);
    return option;
  }

  choose(number, visibly = true) {
    this.at = Math.max(0, Math.min(this.items.length - 1, number));
    this.following ||= visibly;
    this.later();
  }

  // Scroll to what is chosen.
  follow(height) {
    this.following = false;
    if (this.at < 0) return; // what was chosen went meanwhile
    const top = this.at * height;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + height > this.box.scrollTop + this.box.clientHeight)
      this.box.scrollTop = top + height - this.box.clientHeight;
  }

  press(event) {
    this.release?.();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.rowHeight()) - 1);
    const to = {
      ArrowDown: this.at + 1,
      j: this.at + 1,
      ArrowUp: this.at - 1,
      k: this.at - 1,
      PageDown: this.at + page,
      PageUp: this.at - page,
      Home: 0,
      End: this.items.length - 1,
    }[event.key];
    if (to !== undefined) this.choose(to);
    else if (event.key === "Enter" && this.items[this.at]) this.open?.(this.items[this.at]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // What was shown where it was pressed, whatever the list has become since.
  click(event) {
    const item = this.pressed ?? this.shown.get(event.target.closest(".row"));
    this.release?.();
    if (!item) return;
    const number = this.items.findIndex((one) => this.key(one) === this.key(item));
    if (number >= 0) this.choose(number, false);
    this.open?.(item);
  }

  close() {
    this.watch.disconnect();
    this.release?.();
    cancelAnimationFrame(this.frame);
  }
}
