// The forest as a tree for reading and for the keyboard: closed at first, and drawn as far as it is opened.

import { element, tinted } from "./dom.js";
import { finalOf, shown } from "./figures.js";

const PAGE = 100; // clients that are added at a time

/** A tree as the ARIA practices have it: arrows move, Right and Left open and close, Enter chooses. */
export class Tree {
  constructor(place, choose) {
    this.place = place;
    this.choose = choose;
    this.open = new Set(["root"]);
    this.limits = new Map();
    this.query = "";
    this.chosen = null;
    this.focused = "root";
    place.addEventListener("keydown", (event) => this.#key(event));
    place.addEventListener("click", (event) => this.#click(event));
    place.addEventListener("focusin", (event) => this.#focus(event.target.closest("[role=treeitem]")));
  }

  show(forest) {
    this.forest = forest;
    this.#draw();
  }

  search(query) {
    this.query = query.trim().toLowerCase();
    this.#draw();
  }

  mark(name) {
    this.chosen = name;
    for (const item of this.#items()) {
      item.setAttribute("aria-selected", String(item.dataset.key === name));
    }
  }

  #draw() {
    const { outline, clients } = this.forest;
    const held = this.place.contains(document.activeElement);
    const branches = outline.clusters.map((each) => this.#cluster(this.forest.clusters.get(each.name)));
    const loose = this.#leaves("root", outline.clients, 2);
    const root = this.#item("root", 1, this.open.has("root"), `${clients.size} clients`);
    root.append(element("ul", { role: "group" }, branches.flat(), loose));
    this.place.replaceChildren(root);
    if (!this.#find(this.focused)) this.focused = "root";
    this.#rove();
    if (held) this.#find(this.focused).focus();
  }

  #cluster({ name, clients, hue }) {
    const found = this.#matching(clients);
    if (this.query && !found.length) return [];
    const opened = this.query ? true : this.open.has(name);
    const count = this.query ? `${found.length} of ${clients.length}` : `${clients.length}`;
    const item = tinted(this.#item(name, 2, opened, `${count} clients`), hue);
    if (opened) item.append(element("ul", { role: "group" }, this.#leaves(name, clients, 3)));
    return [item];
  }

  #leaves(home, clients, level) {
    const found = this.#matching(clients);
    const limit = this.limits.get(home) ?? PAGE;
    const items = found.slice(0, limit).map((client) => this.#leaf(client, level));
    if (found.length > limit) {
      const rest = found.length - limit;
      items.push(this.#item(`more ${home}`, level, null, `of ${rest}`, `Show ${Math.min(PAGE, rest)} more`));
    }
    return items;
  }

  #leaf(client, level) {
    const value = shown(this.forest.figure, finalOf(client, this.forest.figure));
    const notes = [value, client.leaf ? null : "no leaf", client.seen ? null : "unseen"];
    const item = this.#item(client.name, level, null, notes.filter(Boolean).join(" · "));
    item.classList.add(client.leaf ? "leafed" : "bare");
    return tinted(item, client.hue);
  }

  #item(key, level, opened, note, label = key) {
    return element(
      "li",
      {
        role: "treeitem",
        "data-key": key,
        "aria-level": level,
        "aria-expanded": opened === null ? null : String(opened),
        "aria-selected": String(key === this.chosen),
        "aria-label": `${label}, ${note}`,
        tabindex: -1,
      },
      element("div", { class: "row" }, element("i", { "aria-hidden": "true" }), element("span", {}, label), element("small", {}, note)),
    );
  }

  #matching(clients) {
    return this.query ? clients.filter((client) => client.name.includes(this.query)) : clients;
  }

  #items() {
    return [...this.place.querySelectorAll("[role=treeitem]")];
  }

  #find(key) {
    return this.#items().find((item) => item.dataset.key === key);
  }

  #focus(item) {
    if (!item) return;
    this.focused = item.dataset.key;
    this.#rove();
  }

  /** Tab comes to one item; arrows go on from there. */
  #rove() {
    for (const item of this.#items()) item.tabIndex = item.dataset.key === this.focused ? 0 : -1;
  }

  #toggle(key, opened = !this.open.has(key)) {
    if (opened) this.open.add(key);
    else this.open.delete(key);
    this.#draw();
  }

  #use(item) {
    const key = item.dataset.key;
    if (key.startsWith("more ")) {
      const home = key.slice("more ".length);
      const limit = this.limits.get(home) ?? PAGE;
      const next = this.#matching(this.#clientsOf(home))[limit].name;
      this.limits.set(home, limit + PAGE);
      this.focused = next;
      this.#draw();
    } else this.choose(key);
  }

  #clientsOf(home) {
    return home === "root" ? this.forest.outline.clients : this.forest.clusters.get(home).clients;
  }

  #click(event) {
    const item = event.target.closest("[role=treeitem]");
    if (!item) return;
    item.focus();
    const folds = item.hasAttribute("aria-expanded") && item.dataset.key !== "root" && !this.query;
    if (folds) this.#toggle(item.dataset.key);
    this.#use(this.#find(item.dataset.key) ?? item);
  }

  #key(event) {
    const item = event.target.closest("[role=treeitem]");
    const items = this.#items();
    const at = items.indexOf(item);
    const opened = item?.getAttribute("aria-expanded");
    const moves = {
      ArrowDown: () => items[at + 1]?.focus(),
      ArrowUp: () => items[at - 1]?.focus(),
      Home: () => items[0].focus(),
      End: () => items.at(-1).focus(),
      ArrowRight: () => (opened === "false" ? this.#toggle(item.dataset.key, true) : opened && items[at + 1]?.focus()),
      ArrowLeft: () => this.#leave(item, opened),
      Enter: () => this.#use(item),
      " ": () => this.#use(item),
    };
    if (at < 0 || !moves[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    moves[event.key]();
  }

  #leave(item, opened) {
    if (opened === "true" && item.dataset.key !== "root" && !this.query) this.#toggle(item.dataset.key, false);
    else item.parentElement.closest("[role=treeitem]")?.focus();
  }
}
