// Elements of the page. What a cluster, a file or a registry says is always text, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
    } else if (value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat().filter((child) => child !== undefined));
  return element;
}

/** Creates an element of HTML. Attributes that begin with `on` are listeners. */
export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Creates an element of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Returns the icon of a state. */
export function icon(state, attributes = {}) {
  return svg("use", { href: `#icon-${state}`, ...attributes });
}

/** Returns the mark of a state: its icon and its name. */
export function stateMark(state) {
  const picture = svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, icon(state));
  return html("span", { class: `mark state-${state}` }, picture, state);
}

/** Writes a number of bytes in the unit that it fills. */
export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = count;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** Writes seconds with two units. */
export function duration(seconds) {
  const whole = Math.round(seconds);
  const part = (count) => String(count).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${part(whole % 60)}s`;
  return `${Math.floor(whole / 3600)}h${part(Math.floor((whole % 3600) / 60))}m`;
}

/** Writes how long ago a time is. */
export function age(time) {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (Number.isNaN(seconds)) return "";
  if (seconds < 120) return `${Math.round(seconds)}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86400)}d`;
}

/** Shortens a digest to 12 characters of its hash. */
export function short(digest) {
  return digest.replace(/^sha256:/, "").slice(0, 12);
}

/** Returns a number with the noun that it counts. */
export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
