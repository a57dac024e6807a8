// The control API: the token, answers, errors, lines and events.

import { encoded } from "./format.js";

const KEY = "cachesync.token";
const SILENCE = 40_000; // milliseconds: the daemon says something every 15 s

export class Refused extends Error {
  constructor(status, told) {
    super(told?.cause ? `${told.cause}${told.hint ? ` (${told.hint})` : ""}` : `HTTP ${status}`);
    this.status = status;
    this.told = told ?? {};
  }
}

export class Api {
  constructor(onLocked) {
    this.onLocked = onLocked;
    this.take();
  }

  // The token of the page's address, if there is one. A fragment never reaches a server's log; it must not stay in the
  // history either.
  take() {
    const given = /^#token=([^&]+)/.exec(location.hash);
    if (!given) return false;
    this.token = decodeURIComponent(given[1]);
    history.replaceState(null, "", `${location.pathname}#/`);
    return true;
  }

  get token() {
    return sessionStorage.getItem(KEY);
  }

  set token(text) {
    if (text) sessionStorage.setItem(KEY, text);
    else sessionStorage.removeItem(KEY);
  }

  async ask(method, target, { headers = {}, signal } = {}) {
    const response = await fetch(target, {
      method,
      headers: { ...headers, Authorization: `Bearer ${this.token}` },
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal,
    });
    if (response.status === 401) this.onLocked();
    return response;
  }

  // The JSON of an answer. A report is an answer whatever its status; an error is thrown.
  async json(method, target, options) {
    const response = await this.ask(method, target, options);
    const told = await response.json();
    if (told.error && typeof told.error === "object") throw new Refused(response.status, told.error);
    return told;
  }

  // The lines of a listing, some at a time.
  async *lines(target, options) {
    const response = await this.ask("GET", target, options);
    if (!response.ok) throw new Refused(response.status, (await response.json()).error);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let left = "";
    for (;;) {
      const { value, done } = await reader.read();
      const parts = (left + (value ?? "")).split("\n");
      left = parts.pop();
      const items = parts.filter(Boolean).map((line) => JSON.parse(line));
      const wrong = items.find((item) => item.error && typeof item.error === "object");
      if (wrong) throw new Refused(response.status, wrong.error);
      if (items.length) yield items;
      if (done) return;
    }
  }

  // The first bytes of an artifact, and how many there are.
  async bytes(address, most, options = {}) {
    const response = await this.ask("GET", `/v1/artifacts/${encoded(address)}`, {
      ...options,
      headers: { Range: `bytes=0-${most - 1}` },
    });
    if (response.status === 416) return { data: new Uint8Array(), size: 0, type: "", source: "" };
    if (!response.ok) throw new Refused(response.status, (await response.json()).error);
    const range = response.headers.get("Content-Range");
    const data = new Uint8Array(await response.arrayBuffer());
    return {
      data,
      size: range ? Number(range.split("/")[1]) : data.length,
      type: (response.headers.get("Content-Type") ?? "").split(";")[0].trim().toLowerCase(),
      source: response.headers.get("X-Cachesync-Source") ?? "",
      unverified: response.headers.get("X-Cachesync-Unverified") === "true",
    };
  }

  // Events until the stream ends; by fetch, since EventSource cannot send a token. Throws when it breaks.
  async *events(signal) {
    const quiet = new AbortController();
    const either = AbortSignal.any([signal, quiet.signal]);
    let watchdog = setTimeout(() => quiet.abort(), SILENCE);
    try {
      const response = await this.ask("GET", "/v1/events", { signal: either });
      if (!response.ok) throw new Refused(response.status, (await response.json()).error);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      yield [];
      let left = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(watchdog);
        watchdog = setTimeout(() => quiet.abort(), SILENCE);
        const blocks = (left + value).split("\n\n");
        left = blocks.pop();
        yield blocks.map(event).filter(Boolean);
      }
    } finally {
      clearTimeout(watchdog);
    }
  }
}

function event(block) {
  let kind = "";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) kind = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  return kind && data ? { kind, ...JSON.parse(data) } : null;
}
