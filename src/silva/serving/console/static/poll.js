// Asks again and again while somebody looks.

/** Calls `ask` every `period` ms while the tab is visible and `wanted()`; returns a way to ask at once. */
export function poll(ask, wanted, period) {
  let timer = null;
  let running = false;

  async function turn() {
    clearTimeout(timer);
    timer = null;
    if (running || document.hidden || !wanted()) return;
    running = true;
    try {
      await ask();
    } finally {
      running = false;
      if (!document.hidden && wanted()) timer = setTimeout(turn, period);
    }
  }

  document.addEventListener("visibilitychange", turn);
  return turn;
}
