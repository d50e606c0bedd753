// Makes elements. What comes from outside becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** element("p", { class: "quiet", onclick: f }, "text", other): null and false are left out. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same inside a drawing. */
export function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

/** An element of index.html. */
export function byId(id) {
  return document.getElementById(id);
}

/** Gives an element its colour: `hue` in degrees, or null for none. */
export function tinted(made, hue) {
  if (hue === null) made.classList.add("grey");
  else made.style.setProperty("--hue", hue.toFixed(1));
  return made;
}

/** A bar for eyes, `share` of it full; the number stands beside it. */
export function bar(share) {
  const made = element("div", { class: "share", "aria-hidden": "true" });
  made.style.setProperty("--share", `${(100 * share).toFixed(1)}%`);
  return made;
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}
