// The page: the token, which view, the keyboard.

import { Api } from "./api.js";
import { put, say, tell } from "./build.js";
import { decoded } from "./format.js";
import { Model } from "./model.js";
import { Overview } from "./overview.js";
import { SessionView } from "./session.js";

const get = (id) => document.getElementById(id);
const main = get("main");
const gate = get("gate");
const keys = get("keys");
const root = document.documentElement;

const api = new Api(() => lock("That token is not the right one."));
const model = new Model(api);
let view = null;
let routed = "";

// -- the token ---------------------------------------------------------------------------------------------------------

function lock(why) {
  if (!api.token && !gate.hidden) return;
  api.token = null;
  model.stop();
  close();
  head();
  root.classList.add("locked");
  gate.hidden = false;
  say(get("wrong"), why);
  get("token").focus();
}

function unlock() {
  root.classList.remove("locked");
  gate.hidden = true;
  say(get("wrong"), "");
  model.start();
  route();
}

gate.addEventListener("submit", (event) => {
  event.preventDefault();
  const given = get("token").value.trim();
  get("token").value = "";
  if (!/^[\x21-\x7e]+$/.test(given)) {
    say(get("wrong"), "A token is one word of visible ASCII.");
    return;
  }
  api.token = given;
  unlock();
});

get("forget").addEventListener("click", () => {
  keys.close();
  lock("");
});

// -- which view --------------------------------------------------------------------------------------------------------

// At once: whoever presses two keys need not wait for the browser to tell us of the first.
function go(place) {
  if (location.hash !== `#${place}`) location.hash = place;
  route();
}

function close() {
  view?.close();
  view = null;
  put(main);
}

function route() {
  if (api.take()) {
    // A link with the token, followed in a page that is open already.
    unlock();
    return;
  }
  if (!api.token || (view && routed === location.hash)) return;
  routed = location.hash;
  const place = location.hash.replace(/^#\/?/, "");
  const cut = place.indexOf("/");
  const session = decoded(cut < 0 ? place : place.slice(0, cut));
  const path = cut < 0 ? "" : decoded(place.slice(cut + 1));
  if (session && !/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(session)) {
    go("/");
    return;
  }
  if (view instanceof SessionView && view.session === session) {
    view.files.at(path);
    return;
  }
  const before = view;
  close();
  view = session ? new SessionView(model, api, go, session, path) : new Overview(model, go);
  put(main, view.element);
  if (before) {
    main.focus({ preventScroll: true });
    scrollTo({ top: 0 });
  }
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

addEventListener("hashchange", route);

// -- the head ----------------------------------------------------------------------------------------------------------

function head() {
  const words = { live: "live", connecting: "connecting", away: "no answer" };
  const link = get("link");
  link.dataset.link = api.token ? model.link : "";
  say(link, api.token ? words[model.link] : "");
  const status = model.status;
  if (status) say(get("place"), `${status.root} → ${status.store}`);
}

model.addEventListener("status", head);
model.addEventListener("link", head);
model.addEventListener("trouble", (event) => tell(event.detail));
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && model.running) {
    model.soon();
    view?.draw();
  }
});

// -- light and dark ----------------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];
const SIGNS = { auto: "◐", light: "☀", dark: "☾" };

function theme(change) {
  const now = root.dataset.theme ?? "auto";
  const next = change ? THEMES[(THEMES.indexOf(now) + 1) % THEMES.length] : now;
  if (next === "auto") {
    delete root.dataset.theme;
    localStorage.removeItem("cachesync.theme");
  } else {
    root.dataset.theme = next;
    localStorage.setItem("cachesync.theme", next);
  }
  get("theme").textContent = SIGNS[next];
  get("theme").setAttribute("aria-label", `Colours: ${next === "auto" ? "as the system" : next}`);
  if (change) tell(`Colours: ${next === "auto" ? "as the system" : next}`);
}

get("theme").addEventListener("click", () => theme(true));

// -- the keyboard ------------------------------------------------------------------------------------------------------

get("help").addEventListener("click", () => keys.showModal());
get("close-keys").addEventListener("click", () => keys.close());

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const typing = event.target instanceof HTMLInputElement;
  if (event.key === "Escape" && !keys.open) {
    if (typing) leave(event.target);
    else if (!view?.hideReceipt?.()) view?.up?.();
    return;
  }
  if (typing || keys.open || !api.token) return;
  const act = {
    "/": () => (view instanceof SessionView ? view.focusFilter() : view?.filter.focus()),
    "?": () => keys.showModal(),
    t: () => theme(true),
    f: () => view?.flush?.(),
    r: () => view?.retry?.(),
    u: () => view?.up?.() || go("/"),
    j: () => view && firstList().focus(),
    ArrowDown: () => document.activeElement === main && firstList().focus(),
  }[event.key];
  if (act) {
    if (event.key !== "ArrowDown" || document.activeElement === main) event.preventDefault();
    act();
  }
});

function leave(field) {
  if (field.type === "search" && field.value) {
    field.value = "";
    field.dispatchEvent(new Event("input"));
  }
  field.blur();
}

function firstList() {
  return view instanceof SessionView ? view.files.list.box : view.list.box;
}

// -- begin -------------------------------------------------------------------------------------------------------------

theme(false);
if (api.token) unlock();
else lock("");
