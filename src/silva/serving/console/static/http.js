// Requests to this server. What it refuses becomes an error with its own words.

import { askKey, keyOf, wasDeclined } from "./keys.js";

export class Refused extends Error {
  /** `status` 0: no answer came. */
  constructor(status, message, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/**
 * A response with a good status.
 *
 * role     whose key is sent, "api" or "admin"
 * quiet    nobody waits for it: a key that was not given before is not asked for again
 */
export async function request(path, { role = "api", quiet = false, headers = {}, ...options } = {}) {
  for (;;) {
    const key = keyOf(role);
    const sent = key ? { ...headers, authorization: `Bearer ${key}` } : headers;
    const response = await answerOf(path, { ...options, headers: sent });
    if (response.ok) return response;
    const refusal = await refusalOf(response);
    if (response.status !== 401 || (quiet && wasDeclined(role))) throw refusal;
    // another request may have been given a new key meanwhile
    if (keyOf(role) === key && (await askKey(role, refusal.message)) === null) throw refusal;
  }
}

/** The JSON of a GET. */
export async function read(path, options = {}) {
  return (await request(path, options)).json();
}

/** The JSON that answers to a JSON body. */
export async function send(path, body, options = {}) {
  const headers = { "content-type": "application/json" };
  const sent = { method: "POST", headers, body: JSON.stringify(body), ...options };
  return (await request(path, sent)).json();
}

async function answerOf(path, options) {
  try {
    return await fetch(path, { credentials: "omit", redirect: "error", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the server does not answer");
  }
}

async function refusalOf(response) {
  try {
    const { error } = await response.json();
    return new Refused(response.status, String(error.message), error.code);
  } catch {
    return new Refused(response.status, `the server answered with status ${response.status}`);
  }
}
