// Language models: a conversation, or a text that is continued where the model has no chat template.

import { byId, element } from "./dom.js";
import { eventsOf } from "./events.js";
import { request } from "./http.js";

export class Chat {
  constructor(playground, about) {
    this.playground = playground;
    this.chat = about.chat;
    this.histories = new Map(); // model -> the messages of its own conversation
    this.input = byId("message");
    const form = byId("chat-form");
    form.hidden = false;
    byId("message-label").textContent = about.chat ? "Message" : "Text to continue (the model has no chat template)";
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    });
  }

  reset() {
    this.histories.clear();
  }

  #submit() {
    const text = this.input.value;
    if (!text.trim()) return;
    this.input.value = "";
    this.playground.ask(text, element("h3", { class: "question" }, text));
  }

  async answer(text, model, card, signal) {
    const history = this.histories.get(model.id) ?? [];
    const messages = [...history, { role: "user", content: text }];
    const asked = this.chat ? { messages } : { prompt: text };
    const body = {
      model: model.id,
      ...asked,
      stream: true,
      max_tokens: byId("most-tokens").valueAsNumber || 128,
      temperature: byId("temperature").valueAsNumber || 0,
    };
    const path = this.chat ? "/v1/chat/completions" : "/v1/completions";
    const headers = { "content-type": "application/json", "x-silva-timings": "1" };
    const response = await request(path, { method: "POST", headers, body: JSON.stringify(body), signal });
    const said = await shownAsItComes(response, card);
    this.histories.set(model.id, [...messages, { role: "assistant", content: said }]);
  }
}

/** Fills a card with a stream; the text without reasoning. */
async function shownAsItComes(response, card) {
  const thought = element("p", { class: "thought" });
  const answer = element("p", { class: "text" });
  card.body.append(answer);
  for await (const event of eventsOf(response)) {
    const choice = event.choices[0];
    const { content, reasoning_content: reasoning } = choice.delta ?? { content: choice.text };
    if (reasoning) {
      if (!thought.isConnected) card.body.prepend(thought);
      thought.append(reasoning);
    }
    if (content) answer.append(content);
    if (choice.finish_reason) card.foot.textContent = ending(choice);
  }
  return answer.textContent;
}

function ending({ finish_reason: reason, timings }) {
  const parts = [reason === "length" ? "cut at its length" : null];
  if (timings?.first_token_ms) parts.push(`first token ${timings.first_token_ms.toFixed(0)} ms`);
  return parts.filter(Boolean).join(" · ");
}
