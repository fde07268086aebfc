// @ts-check
/* What becomes of the questions that Dash asks the server: one that fails is told in a sentence, and who waits for the end
 * of one is told of that. Dash has no property and no event for either, so that this stands between it and `fetch`.
 */
const Requests = (() => {
  const PATH = "_dash-update-component";
  const GONE = "The page's server does not answer. Where it was ended, start it again and open the address that it prints.";
  const PLACES = ["outcome", "alone", "told"]; // what the model answers, which may take a while
  const LONGEST = 500; // characters of an answer that are shown

  /** How many requests are under way, by their output. @type {Map<string, number>} */
  const going = new Map();
  /** What is to be done when one has ended, by a part of its output. @type {Map<string, () => void>} */
  const waiting = new Map();
  /** What the reader is told: of one output, or of the server as a whole. @type {Map<string, string>} */
  const troubles = new Map();

  const fetchAsBefore = window.fetch.bind(window);

  /** @param {RequestInfo | URL} resource @param {RequestInit} [options] */
  window.fetch = async (resource, options) => {
    if (typeof resource !== "string" || !resource.includes(PATH)) return fetchAsBefore(resource, options);
    const { output } = JSON.parse(String(options?.body));
    going.set(output, (going.get(output) || 0) + 1);
    wait();
    try {
      const response = await fetchAsBefore(resource, options);
      if (response.ok) tell(output, "");
      else tell(response.status === 403 ? "" : output, (await response.clone().text()).slice(0, LONGEST));
      return response;
    } catch (fault) {
      tell("", GONE);
      throw fault;
    } finally {
      going.set(output, (going.get(output) || 1) - 1);
      wait();
      for (const [part, then] of waiting) if (output.includes(part)) then();
    }
  };

  /** @param {string} part */
  const isGoing = (part) => [...going].some(([output, count]) => count > 0 && output.includes(part));

  /** Marks the places whose answer is under way. */
  function wait() {
    for (const id of PLACES) document.getElementById(id)?.toggleAttribute("data-waiting", isGoing(`${id}.children`));
  }

  /** Shows a sentence, or takes away what was said of this output, as the server answers.
   * @param {string} output @param {string} sentence
   */
  function tell(output, sentence) {
    if (sentence) troubles.set(output, sentence);
    else for (const one of ["", output]) troubles.delete(one);
    const place = document.getElementById("trouble");
    if (!place) return;
    const text = [...new Set(troubles.values())].join(" ");
    if (place.textContent !== text) place.textContent = text;
    place.hidden = !text;
  }

  return {
    /** Whether a request for an output is under way. */
    isGoing,
    /** @param {string} part @param {() => void} then */
    whenEnded: (part, then) => { waiting.set(part, then); },
  };
})();
