// The two keys that a server may want. They are asked for when it says so, and kept for this tab only.

import { byId, element } from "./dom.js";

const TITLES = { api: "API key", admin: "Admin key" };
const asked = new Map(); // role -> the question that is open
const declined = new Set();
let turn = Promise.resolve(); // one dialog at a time

export function keyOf(role) {
  return sessionStorage.getItem(`silva.key.${role}`);
}

/** Whether the key was not given when it was asked for. */
export function wasDeclined(role) {
  return declined.has(role);
}

/** Asks for a key; null where it is not given. `message` is what the server said. */
export function askKey(role, message) {
  if (!asked.has(role)) {
    const question = turn.then(() => open(role, message)).finally(() => asked.delete(role));
    asked.set(role, question);
    turn = question;
  }
  return asked.get(role);
}

function open(role, message) {
  sessionStorage.removeItem(`silva.key.${role}`);
  const dialog = byId("key-dialog");
  const input = element("input", { type: "password", id: "key", autocomplete: "off", required: true });
  return new Promise((resolve) => {
    let key = null;
    const submit = (event) => {
      event.preventDefault();
      key = input.value.trim() || null;
      dialog.close();
    };
    dialog.onclose = () => {
      if (key) {
        sessionStorage.setItem(`silva.key.${role}`, key);
        declined.delete(role);
      } else declined.add(role);
      dialog.replaceChildren();
      resolve(key);
    };
    const form = element(
      "form",
      { onsubmit: submit },
      element("h2", { id: "key-title" }, TITLES[role]),
      element("p", {}, message),
      element("label", { for: "key" }, `${TITLES[role]} of this server`),
      input,
      element("p", { class: "quiet" }, "It is kept until this tab is closed, and sent to this server only."),
      element(
        "div",
        { class: "buttons" },
        element("button", { type: "button", onclick: () => dialog.close() }, "Without"),
        element("button", { class: "main" }, "Use this key"),
      ),
    );
    dialog.replaceChildren(form);
    dialog.showModal();
    input.focus();
  });
}
