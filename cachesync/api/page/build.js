// Elements from descriptions. Text only ever becomes text: there is no way to give markup here.

import { name as shown } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

function fill(element, given, inside) {
  for (const [name, value] of Object.entries(given ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.setAttribute("class", value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...inside.flat().filter((one) => one !== null && one !== undefined && one !== false));
  return element;
}

export function el(tag, given, ...inside) {
  return fill(document.createElement(tag), given, inside);
}

export function svg(tag, given, ...inside) {
  return fill(document.createElementNS(SVG, tag), given, inside);
}

export function put(element, ...inside) {
  element.replaceChildren(...inside.flat().filter((one) => one !== null && one !== undefined && one !== false));
  return element;
}

// Set text only where it differs: what did not change is not read out again, and costs nothing.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let telling = 0;

export function tell(text) {
  const toast = document.getElementById("toast");
  toast.textContent = text;
  toast.classList.add("shown");
  clearTimeout(telling);
  telling = setTimeout(() => toast.classList.remove("shown"), 4000);
}

// A list of what is known: only what is there.
export function facts(rows) {
  return el(
    "dl",
    { class: "facts" },
    rows
      .filter(([, value]) => value !== "" && value !== null && value !== undefined)
      .map(([term, value]) =>
        el("div", {}, el("dt", {}, term), el("dd", {}, typeof value === "string" ? shown(value) : value)),
      ),
  );
}

// Hand a file to the browser to keep, whatever is in it.
export function save(name, text, type = "application/json") {
  const url = URL.createObjectURL(text instanceof Blob ? text : new Blob([text], { type }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
