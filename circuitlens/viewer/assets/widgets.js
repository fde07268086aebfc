// @ts-check
/* Shows the page's state: sets the stores and widgets that Dash knows, and what is beside them in the page. */
const Widgets = (() => {
  const EDGES = 80; // shown at first: more than about a hundred are haze
  const SHARED = { nodes: "attribution", edges: "weight" }; // of what the sliders tell the share

  /** What the server said of what is drawn. @type {Facts | null} */
  let facts = null;
  /** What each store and widget was last set to. @type {Record<string, Record<string, unknown>>} */
  const known = {};
  /** @type {Record<string, number>} */
  const timers = {};
  /** How many each stop of a slider shows. */
  const stops = { nodes: [0], edges: [0] };

  /** The element of an id, which the page always has. @param {string} id @returns {HTMLElement} */
  const element = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

  /** Sets properties of a store or widget where they differ. @param {string} id @param {Record<string, any>} props */
  function set(id, props) {
    const now = JSON.stringify(known[id]);
    known[id] = { ...known[id], ...props };
    if (JSON.stringify(known[id]) !== now) window.dash_clientside.set_props(id, props);
  }

  /** Takes down what a widget was set to by somebody else. @param {string} id @param {Record<string, any>} props */
  function note(id, props) { known[id] = { ...known[id], ...props }; }

  /** Does an action once, after the last of several calls (a debounce).
   * @param {string} name @param {number} wait @param {() => void} action
   */
  function debounce(name, wait, action) {
    clearTimeout(timers[name]);
    timers[name] = window.setTimeout(action, wait);
  }

  /** What the reader's label or note of a node is kept by: labels are by feature, whatever its position.
   * @param {"labels" | "notes"} which @param {string} id
   */
  const keyOf = (which, id) => (which === "labels" && facts?.nodes.find((node) => node.value === id)?.key) || id;

  /** The reader's label or note of a node, which may be called as what every object has ("constructor").
   * @param {"labels" | "notes"} which @param {string | null} id
   */
  function own(which, id) {
    const texts = State.own()[which];
    const key = id === null ? null : keyOf(which, id);
    return key !== null && Object.hasOwn(texts, key) ? texts[key] : "";
  }

  /** A text with what can't be printed spelled out, such as marks that turn the direction of what follows.
   * @param {string} text
   */
  const plain = (text) =>
    text.replace(/[\p{C}\u2028\u2029]/gu, (one) => `\\u${(one.codePointAt(0) ?? 0).toString(16).padStart(4, "0")}`);

  /** Whether no node of the circuit has this id. @param {string | null} id */
  const foreign = (id) => !facts?.nodes.some((node) => node.value === id);

  /** What a node or "group NAME" is called. @param {string} target @returns {string} */
  function name(target) {
    if (target.startsWith("group ")) return target.slice(6);
    const node = facts?.nodes.find((one) => one.value === target);
    return plain(own("labels", target)) || (node ? node.label.split(" · ")[0] : target);
  }

  /** Interventions by node: a group's is that of each of its nodes. */
  function settings() {
    const { groups, settings } = State.own();
    /** @type {Map<string, number | "corrupted">} */
    const found = new Map();
    for (const [target, setting] of settings) {
      const group = groups.find((one) => target === `group ${one.name}`);
      for (const id of group ? group.nodes : [target]) found.set(id, setting);
    }
    return found;
  }

  /** Shows the whole state. */
  function publish() {
    const mine = State.own();
    const { view, other, as } = State.now();
    const focus = mine.focus !== null ? "node" : mine.edge ? "edge" : "none";
    Object.assign(element("page").dataset, { view, focus, compare: other === null ? "none" : as });
    tellServer(mine);
    setWidgets(mine.focus);
    const pins = new Set(mine.groups.flatMap((group) => group.nodes).concat(mine.pins));
    Marks.apply({
      edges: mine.edges ?? EDGES, nodes: mine.nodes, focus: mine.focus, edge: mine.edge, position: mine.position, pins,
      labels: mine.labels, settings: settings(),
    });
    sliders();
    Lists.render();
    head(mine);
    for (const button of /** @type {NodeListOf<HTMLElement>} */ (element("prompt").querySelectorAll("button"))) {
      button.setAttribute("aria-pressed", String(button.dataset.on === String(mine.position)));
    }
    debounce("address", 250, State.remember);
  }

  /** Sets the topics, stores that change only when what they are about does. @param {CircuitState} mine */
  function tellServer(mine) {
    const { circuit, other, as, view, tab } = State.now();
    const { pins, groups, labels, notes } = mine;
    set("shown", { data: { circuit, other, as } });
    set("focused", { data: { circuit, other, node: mine.focus, edge: mine.edge, labels } });
    set("pinned", { data: { circuit, pins, groups, labels } });
    set("reading", { data: view === "graph" ? { view } : { circuit, other, view, labels, notes } });
    set("theme", { data: State.theme() });
    set("kept", { data: { circuit, state: JSON.stringify(mine) } });
    Asking.ask("asked", { circuit, settings: Object.fromEntries(settings()) }, tab === "ask" || mine.settings.length > 0);
    const nodes = groups.flatMap((group) => group.nodes).concat(pins).filter((id) => !Graphs.isLogit(id)).sort();
    Asking.ask("kept-alone", { circuit, nodes }, tab === "pinned");
  }

  /** @param {string | null} focus */
  function setWidgets(focus) {
    const { circuit, other, as, view, tab, theme } = State.now();
    set("circuit", { value: String(circuit) });
    set("other", { value: other === null ? null : String(other) });
    set("as", { value: as });
    set("view", { value: view });
    if (view === "table") set("table-tabs", { value: "nodes" }); // once: which one is then the reader's
    set("tab", { value: tab });
    set("label", { value: own("labels", focus) });
    set("note", { value: own("notes", focus) });
    set("undo", { disabled: !State.steps().undo });
    set("redo", { disabled: !State.steps().redo });
    if (theme) set("provider", { forceColorScheme: theme });
    document.body.dataset.agThemeMode = State.theme();
  }

  /** The name of the node in focus, and its buttons. @param {CircuitState} mine */
  function head({ focus, pins, groups, settings }) {
    const known = focus !== null && !foreign(focus);
    for (const id of ["node-name", "node-tools", "own"]) element(id).hidden = !known;
    if (!known) { element("node-name").textContent = ""; return; }
    const off = settings.some(([target, setting]) => target === focus && setting === 0);
    element("node-name").textContent = plain(own("labels", focus)) || Graphs.nameOf(focus) || focus;
    element("pin").textContent = pins.includes(focus) ? "Unpin" : "Pin";
    element("pin").hidden = groups.some((group) => group.nodes.includes(focus));
    element("off").textContent = off ? "Switch on" : "Switch off";
    element("off").hidden = Graphs.isLogit(focus);
  }

  // Sliders

  /** One more each up to 100, 5 % more each from there. @param {number} count */
  function stopsOf(count) {
    const found = Array.from({ length: Math.min(count, 100) + 1 }, (_, i) => i);
    for (let most = found.length - 1; most < count; found.push(most)) {
      most = Math.min(Math.floor((most * 21) / 20), count);
    }
    return found;
  }

  /** @param {"nodes" | "edges"} which @param {number} count */
  const stopAt = (which, count) => stops[which].findLastIndex((one) => one <= count);

  function sliders() {
    const totals = Graphs.totals();
    for (const which of /** @type {const} */ (["nodes", "edges"])) {
      const { count, at, share } = totals[which];
      if (stops[which].at(-1) !== count) stops[which] = stopsOf(count);
      set(which, { max: Math.max(stops[which].length - 1, 1), value: stopAt(which, at) });
      const part = count ? ` · ${Math.floor(100 * share + 1e-9)} % of ${SHARED[which]}` : "";
      element(`${which}-shown`).textContent = `${grouped(at)} of ${grouped(count)}${part}`;
    }
    const few = totals.nodes.at < totals.nodes.count;
    element("show-all").hidden = !few && !Layouts.opens();
    element("show-all").textContent = few ? "Show all" : `Show ${Layouts.opens()}`;
  }

  /** Shows all nodes, or what the circuit opens on. */
  function showAll() {
    const { count, at } = Graphs.totals().nodes;
    State.change({}, { nodes: at < count && Layouts.opens() ? count : null });
  }

  /** A slider reports also what it was set to; only what differs is somebody's wish.
   * @param {"nodes" | "edges"} which @param {number} stop
   */
  function slid(which, stop) {
    note(which, { value: stop });
    const now = Graphs.totals()[which].at;
    const wanted = stops[which][stop];
    if (wanted !== undefined && wanted !== now && stop !== stopAt(which, now)) State.change({}, { [which]: wanted });
  }

  /** A number in groups of three digits. @param {number} number */
  const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");

  // What was drawn

  /** Takes what the server says of what is drawn. @param {Facts} data */
  function takeFacts(data) {
    facts = data;
    element("left-out").textContent = data.leftOut;
    element("left-out").hidden = !data.leftOut;
  }

  /** The nodes that the search offers, with the reader's own labels. */
  function searchable() {
    if (!facts) return;
    const data = facts.nodes.map(({ value, label }) => {
      const mine = own("labels", value);
      return { value, label: mine ? `${plain(mine)} · ${label}` : label };
    });
    set("search", { data });
  }

  const graph = { keyOf, own, name, settings, slid, showAll, takeFacts, searchable };
  return { element, plain, set, note, debounce, publish, foreign, ...graph };
})();
