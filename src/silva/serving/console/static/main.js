// Puts the page together: what is served, the views, and what one view tells another.

import { drawCrowns, markLeaf } from "./crowns.js";
import { byId, element } from "./dom.js";
import { Forest } from "./forest.js";
import { read } from "./http.js";
import { Inspector } from "./inspector.js";
import { Chat } from "./playground-chat.js";
import { Images } from "./playground-image.js";
import { Playground } from "./playground.js";
import { Pools } from "./pools.js";
import { removeClient } from "./removal.js";
import { Tree } from "./tree.js";
import { Versions } from "./versions.js";

const SHOWN_MS = 6000;
let fading = null;

/** Tells what happened, to eyes and to screen readers. */
function say(text, bad = false) {
  clearTimeout(fading);
  const place = byId("notice");
  place.replaceChildren(element("p", { class: bad ? "bad" : null }, text));
  fading = setTimeout(() => place.replaceChildren(), bad ? 2 * SHOWN_MS : SHOWN_MS);
}

async function start() {
  const about = await read("/console/about");
  const forest = new Forest(about);
  byId("base").textContent = about.base ?? "";
  byId("edition").textContent = `silva ${about.silva}`;
  for (const name of ["forest", "versions"]) byId(`to-${name}`).hidden = !about.forest;

  const playground = new Playground(forest);
  playground.use(about.kind === "image" ? new Images(playground, about) : new Chat(playground, about));
  const pools = new Pools(about.kind, say);
  wireForest(forest, playground);
  wireViews(about.forest ? "forest" : "playground", pools);
  await readForest(forest);
  await playground.chooser.refresh().catch((error) => playground.chooser.refuse(error.message));
}

async function readForest(forest) {
  try {
    await forest.load();
    byId("forest-refused").textContent = "";
  } catch (error) {
    byId("forest-refused").textContent = error.message;
  }
}

function wireForest(forest, playground) {
  const changed = async () => {
    await readForest(forest);
    await playground.chooser.refresh();
  };
  const inspector = new Inspector(byId("inspector"), forest, {
    ask(name) {
      playground.chooser.choose(name);
      location.hash = "playground";
    },
    async remove(name) {
      if (!(await removeClient(name))) return;
      say(`${name} is gone`);
      show("root");
      await changed();
    },
  });
  const tree = new Tree(byId("tree"), (name) => choose(name));
  const show = (name) => {
    tree.mark(name);
    markLeaf(byId("crowns"), name);
    inspector.show(name);
  };
  const choose = (name) => {
    show(name);
    byId("chosen-told").textContent = `${name} is shown after the tree`;
    const below = byId("inspector").getBoundingClientRect().top > window.innerHeight - 80;
    if (below) byId("inspector").scrollIntoView({ block: "nearest", behavior: "smooth" });
  };
  forest.watch(() => {
    const { version, clusters } = forest.outline;
    byId("forest-facts").textContent = `version ${version} · ${clusters.length} clusters · ${forest.clients.size.toLocaleString("en")} clients`;
    byId("forest-figure").textContent = forest.figure;
    byId("forest-shown").hidden = false;
    drawCrowns(byId("crowns"), forest, choose);
    tree.show(forest);
    const known = inspector.name && (forest.clients.has(inspector.name) || forest.clusters.has(inspector.name));
    show(known ? inspector.name : "root");
  });
  byId("search").addEventListener("input", (event) => tree.search(event.target.value));
  byId("forest-again").addEventListener("click", () => changed());
  new Versions(forest, changed, say);
}

/** One view at a time, named by the address's last part. */
function wireViews(usual, pools) {
  const views = [...document.querySelectorAll("main > section")];
  const show = (moved) => {
    if (location.hash === "#main") return; // of the link that skips the header
    const wanted = location.hash.slice(1) || usual;
    const view = views.find((each) => each.id === wanted && !byId(`to-${wanted}`).hidden) ?? byId(usual);
    for (const each of views) {
      each.hidden = each !== view;
      const link = byId(`to-${each.id}`);
      if (each === view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (moved) view.querySelector("h2").focus();
    pools.look();
  };
  window.addEventListener("hashchange", () => show(true));
  show(false);
}

start().catch((error) => say(error.message, true));
