// @ts-check
/* What the model is asked: of each kind one question at a time, after which the newest comes. Numbers that answer another
 * question than the one that stands beside them are dimmed until their answer is there.
 */
const Asking = (() => {
  const PAUSE = 60; // ms after which a hand that moves a slider is taken to rest
  /** Where the answers to each store stand. */
  const PLACES = { asked: "outcome", "kept-alone": "alone" };
  /** @typedef {keyof typeof PLACES} Store */

  /** @type {Partial<Record<Store, { active: boolean, key: string }>>} */
  const wanted = {};

  const stores = /** @type {Store[]} */ (Object.keys(PLACES));

  /** @param {Store} store */
  const output = (store) => `${PLACES[store]}.children`;

  /** @param {Store} store @param {Record<string, unknown>} question @param {boolean} active */
  function ask(store, question, active) {
    wanted[store] = { ...question, active, key: JSON.stringify(question) };
    mark(store);
    Widgets.debounce(store, PAUSE, () => send(store));
  }

  /** @param {Store} store */
  function send(store) {
    if (wanted[store] && !Requests.isGoing(output(store))) Widgets.set(store, { data: wanted[store] });
  }

  /** @param {Store} store */
  function mark(store) {
    const panel = Widgets.element(PLACES[store]);
    const answer = /** @type {HTMLElement | null} */ (panel.querySelector("[data-answers]"));
    const old = answer !== null && wanted[store] !== undefined && answer.dataset.answers !== wanted[store].key;
    panel.toggleAttribute("data-old", old);
    panel.setAttribute("aria-busy", String(old));
  }

  function listen() {
    const watched = { childList: true, subtree: true, attributes: true, attributeFilter: ["data-answers"] };
    for (const store of stores) {
      Requests.whenEnded(output(store), () => send(store));
      new MutationObserver(() => mark(store)).observe(Widgets.element(PLACES[store]), watched);
    }
  }

  return { ask, listen };
})();
