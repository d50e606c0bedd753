// Draws again without taking away what is pressed, focused or read just now.

/**
 * Makes the children of `place` look like `fresh`; those that are of the same kind stay, with their own
 * listeners. Entries of a list are told apart by data-key, buttons by their label.
 */
export function renew(place, fresh) {
  const old = [...place.childNodes];
  const keyed = new Map(old.filter((node) => node.dataset?.key).map((node) => [node.dataset.key, node]));
  const next = fresh.map((node, n) => {
    const before = node.dataset?.key ? keyed.get(node.dataset.key) : old[n];
    return before && alike(before, node) ? synced(before, node) : node;
  });
  if (next.length !== old.length || next.some((node, n) => node !== old[n])) place.replaceChildren(...next);
}

/** `draw`, after which the focus is where it was, or on `heading` where that is gone. */
export function keepingFocus(place, heading, draw) {
  const held = place.contains(document.activeElement) ? document.activeElement : null;
  draw();
  if (held && held !== document.activeElement) (held.isConnected ? held : heading).focus();
}

function alike(one, other) {
  if (one.nodeName !== other.nodeName) return false;
  return one.nodeName !== "BUTTON" || one.getAttribute("aria-label") === other.getAttribute("aria-label");
}

function synced(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return old;
  }
  for (const name of old.getAttributeNames()) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const name of fresh.getAttributeNames()) {
    if (old.getAttribute(name) !== fresh.getAttribute(name)) old.setAttribute(name, fresh.getAttribute(name));
  }
  renew(old, [...fresh.childNodes]);
  return old;
}
