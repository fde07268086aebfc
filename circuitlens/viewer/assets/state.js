// @ts-check
/* The page's state: one object, changed by `change` only, kept in the address, and undone step by step.
 *
 * What it consists of is said by its schema, which the server sends (`page_state.py`). `Widgets.publish` shows it.
 */
const State = (() => {
  const STEPS = 200; // that can be undone
  const TOGETHER = 800; // ms within which changes of one kind are one step
  const THEME = "circuitlens-theme";
  const STEPPED = "circuitlens-steps";

  /** @type {Record<string, any>} */
  let schema = {};
  /** What the server said of the circuits that are open. @type {PageData} */
  let given = { names: [], circuits: [] };
  /** Each circuit's state as its file has it. @type {CircuitState[]} */
  let bases = [];
  /** @type {PageState} */
  let state;
  /** @type {string[]} */
  let withoutUndo = [];
  /** @type {PageState[]} */
  let past = [];
  /** @type {PageState[]} */
  let future = [];
  let last = { kind: "", time: 0 };
  /** The circuits of the address as it was last written. */
  let written = "";
  /** The address's part behind "#" as it was last read or written. */
  let hash = "";

  /** @param {unknown} a @param {unknown} b */
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

  /** The state of a circuit. @param {number} number @param {PageState} [of] @returns {CircuitState} */
  const ownOf = (number, of = state) => ({ ...bases[number], ...of.by[number] });

  /** The state of the circuit that is shown. */
  const own = () => ownOf(state.circuit);

  /** @param {PageData} data */
  function take(data) {
    const form = schema.properties.by.additionalProperties;
    const fresh = data.circuits.map(({ annotations }) => Schema.fitted(annotations, form, {}, schema));
    // What a reader can go back to stays as it was, whatever is in the file by now.
    if (state && !same(fresh.slice(0, bases.length), bases)) {
      state = whole(state);
      past = past.map(whole);
      future = future.map(whole);
    }
    given = data;
    bases = fresh;
  }

  /** A state with the whole of what it says of each circuit that was changed in any step, by the files as they are now.
   * @param {PageState} of @returns {PageState}
   */
  function whole(of) {
    const changed = new Set([state, ...past, ...future].flatMap(({ by }) => Object.keys(by)));
    return { ...of, by: Object.fromEntries([...changed].map((number) => [number, ownOf(Number(number), of)])) };
  }

  /** Begins with the state of the address. @param {PageData} data @param {Record<string, any>} pageSchema */
  function begin(data, pageSchema) {
    schema = pageSchema;
    withoutUndo = Schema.withoutUndo(schema);
    take(data);
    fromAddress();
    recall();
  }

  /** Changes the page's state, and that of the circuit which is shown then.
   * @param {Partial<PageState>} part @param {Partial<CircuitState>} mine
   */
  function change(part, mine = {}) {
    const next = { ...state, ...part };
    if (Object.keys(mine).length) next.by = { ...next.by, [next.circuit]: { ...ownOf(next.circuit), ...mine } };
    if (same(next, state)) return;
    const keys = [...Object.keys(part), ...Object.keys(mine)].filter((key) => !withoutUndo.includes(key));
    if (keys.length) {
      const kind = keys.join();
      const now = performance.now();
      if (kind !== last.kind || now - last.time > TOGETHER) past = [...past, state].slice(-STEPS);
      last = { kind, time: now };
      future = [];
    }
    state = next;
    Widgets.publish();
  }

  /** Takes a step back or forth; fields without undo stay. @param {PageState[]} from @param {PageState[]} to */
  function step(from, to) {
    const other = from.pop();
    if (!other) return;
    to.push(state);
    /** @param {any} fields */
    const staying = (fields) => Object.fromEntries(Object.entries(fields).filter(([key]) => withoutUndo.includes(key)));
    /** @type {Record<string, CircuitState>} */
    const by = {};
    for (const number of new Set([...Object.keys(other.by), ...Object.keys(state.by)])) {
      by[number] = { ...ownOf(Number(number), other), ...staying(ownOf(Number(number))) };
    }
    state = { ...other, ...staying(state), by };
    last = { kind: "", time: 0 };
    Widgets.publish();
  }

  // The address

  /** Any value as a state: of one that may come from anyone, what fits. @param {unknown} value @returns {PageState} */
  function read(value) {
    const base = Schema.fitted({ theme: kept(THEME) }, schema);
    const made = Schema.fitted(value, schema, { ...base, by: bases });
    const count = given.circuits.length;
    if (made.circuit >= count) made.circuit = 0;
    if (made.other >= count) made.other = null;
    made.by = Object.fromEntries(Object.entries(made.by).filter(([number]) => Object.keys(bases).includes(number)));
    return made;
  }

  function fromAddress() {
    let value = {};
    try {
      value = JSON.parse(decodeURIComponent(location.hash.slice(1) || "{}"));
    } catch {} // then the state is a fresh one
    state = read(value);
    written = JSON.stringify([state.circuit, state.other]);
    hash = location.hash;
  }

  /** Where a state differs from its defaults. @param {any} value @param {any} base */
  const changes = (value, base) =>
    Object.fromEntries(Object.entries(value).filter(([key, one]) => !same(one, base[key])));

  function address() {
    const short = changes({ ...state, by: {} }, Schema.fitted({}, schema));
    const by = Object.keys(state.by).map((number) => [number, changes(ownOf(Number(number)), bases[Number(number)])]);
    const differing = by.filter(([, mine]) => Object.keys(mine).length);
    if (differing.length) short.by = Object.fromEntries(differing);
    return Object.keys(short).length ? `#${encodeURIComponent(JSON.stringify(short))}` : "";
  }

  /** A state as it can be compared: with every circuit. @param {PageState} of */
  const known = (of) => ({ ...of, by: bases.map((_base, number) => ownOf(number, of)) });

  /** Writes the state into the address, and the steps where a reload finds them. */
  function remember() {
    if (location.hash !== hash) return; // somebody went elsewhere, of which the page is about to be told
    // The token has done its work, except in a frame, whose page has no cookie when it is loaded again.
    const here = location.pathname + (window.top === window ? "" : location.search) + address();
    const circuits = JSON.stringify([state.circuit, state.other]);
    const turned = written !== "" && written !== circuits; // to another circuit, from which one can go back
    written = circuits;
    if (here !== location.pathname + location.search + location.hash) {
      if (turned) history.pushState(null, "", here); else history.replaceState(null, "", here);
      hash = location.hash;
    }
    try {
      const steps = { now: whole(state), past: past.map(whole), future: future.map(whole) };
      sessionStorage.setItem(STEPPED, JSON.stringify(steps));
    } catch {} // then a reload forgets the steps
  }

  /** After a reload of the same state its steps can still be undone, also where the file was saved meanwhile. */
  function recall() {
    past = future = [];
    try {
      const stored = JSON.parse(sessionStorage.getItem(STEPPED) || "{}");
      const [before, after] = [stored.past.map(read), stored.future.map(read)];
      // `at` is what pages wrote that did not know of `now`.
      const here = stored.now ? same(known(read(stored.now)), known(state)) : stored.at === address();
      if (here) [past, future] = [before, after];
    } catch {} // then there are none
  }

  /** A text that the browser keeps, set where a value is given.
   * @param {string} name @param {string} [value] @returns {string | null}
   */
  function kept(name, value) {
    try {
      if (value !== undefined) localStorage.setItem(name, value);
      return localStorage.getItem(name);
    } catch {
      return null; // a browser may forbid it; then nothing is kept
    }
  }

  return {
    begin, take, change, own, kept, remember, fromAddress,
    now: () => state,
    given: () => given,
    /** What the server said of the circuit that is shown. */
    circuit: () => given.circuits[state.circuit],
    steps: () => ({ undo: past.length, redo: future.length }),
    undo: () => step(past, future),
    redo: () => step(future, past),
    /** @param {"light" | "dark"} scheme */
    setTheme: (scheme) => { kept(THEME, scheme); change({ theme: scheme }); },
    theme: () => state.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"),
  };
})();
