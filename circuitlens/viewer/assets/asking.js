// @ts-check
/* What the model is asked: one question at a time, after which the newest comes. Numbers that answer another question than
 * the one that stands beside them are dimmed until their answer is there.
 */
const Asking = (() => {
  const OUTPUT = "outcome.children";
  const PAUSE = 60; // ms after which a hand that moves a slider is taken to rest

  /** @type {{ circuit: number, settings: Record<string, number | "corrupted">, active: boolean, key: string }} */
  let wanted;

  /** @param {number} circuit @param {Map<string, number | "corrupted">} nodes @param {boolean} active */
  function ask(circuit, nodes, active) {
    const settings = Object.fromEntries(nodes);
    wanted = { circuit, settings, active, key: JSON.stringify([circuit, settings]) };
    mark();
    Widgets.debounce("asked", PAUSE, send);
  }

  function send() {
    if (wanted && !Requests.isGoing(OUTPUT)) Widgets.set("asked", { data: wanted });
  }

  function mark() {
    const panel = Widgets.element("outcome");
    const answer = /** @type {HTMLElement | null} */ (panel.querySelector("[data-answers]"));
    const old = answer !== null && wanted !== undefined && answer.dataset.answers !== wanted.key;
    panel.toggleAttribute("data-old", old);
    panel.setAttribute("aria-busy", String(old));
  }

  function listen() {
    Requests.whenEnded(OUTPUT, send);
    const watched = { childList: true, subtree: true, attributes: true, attributeFilter: ["data-answers"] };
    new MutationObserver(mark).observe(Widgets.element("outcome"), watched);
  }

  return { ask, listen };
})();
