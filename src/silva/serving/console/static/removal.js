// A client is erased for good, so it is asked twice.

import { byId, element } from "./dom.js";
import { request } from "./http.js";

/** Resolves to whether the client was removed; what the server refuses is shown in the dialog. */
export function removeClient(name) {
  const dialog = byId("removal-dialog");
  return new Promise((resolve) => {
    let done = false;
    const finish = (removed) => {
      done = removed;
      dialog.close();
    };
    dialog.onclose = () => {
      dialog.replaceChildren();
      resolve(done);
    };
    first(dialog, name, finish);
    dialog.showModal();
  });
}

function first(dialog, name, finish) {
  const onwards = element("button", { type: "button", class: "grave", onclick: () => second(dialog, name, finish) }, "Go on");
  dialog.replaceChildren(
    element("h2", { id: "removal-title" }, `Remove ${name}?`),
    element("p", {}, "Its adapters are erased from the disk, and so is every version of the forest that names it. There is no way back."),
    element("div", { class: "buttons" }, keep(finish), onwards),
  );
}

function second(dialog, name, finish) {
  const input = element("input", { id: "removal-name", autocomplete: "off", autocapitalize: "none", spellcheck: "false" });
  const erase = element("button", { class: "grave", disabled: true }, "Erase for good");
  const said = element("p", { role: "alert", class: "bad" });
  input.addEventListener("input", () => {
    erase.disabled = input.value !== name;
  });
  const submit = async (event) => {
    event.preventDefault();
    if (input.value !== name) return;
    erase.disabled = true;
    try {
      await request(`/admin/v1/forest/clients/${encodeURIComponent(name)}`, { method: "DELETE", role: "admin" });
      finish(true);
    } catch (error) {
      said.textContent = error.message;
      erase.disabled = false;
    }
  };
  const form = element(
    "form",
    { onsubmit: submit },
    element("h2", { id: "removal-title" }, `Once more: remove ${name}?`),
    element("label", { for: "removal-name" }, `Write ${name} to say so`),
    input,
    said,
    element("div", { class: "buttons" }, keep(finish), erase),
  );
  dialog.replaceChildren(form);
  input.focus();
}

function keep(finish) {
  return element("button", { type: "button", onclick: () => finish(false) }, "Keep it");
}
