// Numbers, times and names as a person reads them. Nothing here touches the document.

const whole = new Intl.NumberFormat("en");
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function count(number, one, many = `${one}s`) {
  return `${whole.format(number)} ${number === 1 ? one : many}`;
}

// Between a number and its unit no line is broken.
const NEAR = "\u00a0";

export function plain(number) {
  return whole.format(number);
}

export function bytes(number) {
  if (number === null || number === undefined) return "";
  let at = 0;
  while (number >= 1023.95 && at < UNITS.length - 1) {
    number /= 1024;
    at += 1;
  }
  return `${at === 0 || number >= 99.95 ? Math.round(number) : number.toFixed(1)}${NEAR}${UNITS[at]}`;
}

// A span of seconds: 31 ms, 4.2 s, 3 min, 2 h, 5 d.
export function span(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  if (seconds < 0.0995) return `${Math.max(0, seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)}${NEAR}ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)}${NEAR}ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)}${NEAR}s`;
  if (seconds < 90) return `${Math.round(seconds)}${NEAR}s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}${NEAR}min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)}${NEAR}h`;
  return `${Math.round(seconds / 86400)}${NEAR}d`;
}

export function ago(at, now = Date.now() / 1000) {
  const seconds = now - at;
  return seconds < 1.5 ? "just now" : `${seconds < 90 ? `${Math.round(seconds)}${NEAR}s` : span(seconds)} ago`;
}

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB");
}

export function moment(at) {
  if (at === null || at === undefined) return "";
  const date = new Date(at * 1000);
  return `${date.toLocaleDateString("sv-SE")} ${date.toLocaleTimeString("en-GB")}`;
}

// A name that somebody else chose: what would hide, reorder or break the text is shown as what it is.
export function name(text) {
  return text.replace(
    /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]/gu,
    (c) => {
      const code = c.codePointAt(0);
      if (code >= 0xdc80 && code <= 0xdcff) return `\\x${(code - 0xdc00).toString(16)}`;
      return code === 10 ? "\\n" : code === 9 ? "\\t" : `\\u${code.toString(16).padStart(4, "0")}`;
    },
  );
}

// A path as the control API takes it. The daemon shows a byte that is no UTF-8 as a lone surrogate.
export function encoded(path, keep = "/") {
  let out = "";
  for (const c of path) {
    const code = c.codePointAt(0);
    if (code >= 0xdc80 && code <= 0xdcff) out += `%${(code - 0xdc00).toString(16)}`;
    else if (code >= 0xd800 && code <= 0xdfff) out += "%EF%BF%BD";
    else
      out += keep.includes(c)
        ? c
        : encodeURIComponent(c).replace(/[!'()*]/g, (d) => `%${d.charCodeAt(0).toString(16)}`);
  }
  return out;
}

// And back, from the page's own address.
export function decoded(text) {
  return text.replace(/(?:%[0-9a-f]{2})+/gi, (run) => {
    const raw = Uint8Array.from(run.slice(1).split("%"), (hex) => parseInt(hex, 16));
    let out = "";
    let at = 0;
    while (at < raw.length) {
      const lead = raw[at];
      const size = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 0;
      try {
        if (!size) throw new RangeError();
        out += new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(raw.subarray(at, at + size));
        at += size;
      } catch {
        out += String.fromCharCode(0xdc00 + lead);
        at += 1;
      }
    }
    return out;
  });
}
