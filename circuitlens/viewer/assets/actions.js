// @ts-check
/* What a reader does to the page's state: by keys, buttons, clicks on nodes, and the lists' rows. */
const Actions = (() => {
  const SEEN = "circuitlens-introduction-seen";

  /** Puts a node in focus, or none. @param {string | null} id */
  function focus(id) {
    const { tab } = State.now();
    State.change({ tab: id && tab === "about" ? "node" : tab }, { focus: id, edge: null, position: null });
  }

  /** Has one position's nodes stand out, or all again. @param {number} position */
  function position(position) {
    const wanted = State.own().position === position ? null : position;
    State.change({ view: "graph" }, { focus: null, edge: null, position: wanted });
  }

  /** Puts an edge in focus. @param {string} source @param {string} target */
  const focusEdge = (source, target) => State.change({ tab: "node" }, { focus: null, edge: [source, target], position: null });

  /** Whether there is a node of this id, so that something can be done to it.
   * @param {string | null | undefined} id @returns {id is string}
   */
  const known = (id) => Boolean(id) && !Widgets.foreign(id ?? null);

  function pin(id = State.own().focus) {
    const { pins, groups } = State.own();
    if (!known(id) || groups.some((group) => group.nodes.includes(id))) return;
    State.change({}, { pins: pins.includes(id) ? pins.filter((one) => one !== id) : [...pins, id] });
  }

  /** Makes a group of pinned nodes. @param {string} name @param {string[]} ids */
  function group(name, ids) {
    const { pins, groups } = State.own();
    if (!ids.length) return;
    const wanted = name.trim() || "group";
    let unique = wanted;
    for (let n = 2; groups.some((one) => one.name === unique); n++) unique = `${wanted} ${n}`;
    const made = { name: unique.slice(0, 200), nodes: ids };
    State.change({}, { groups: [...groups, made], pins: pins.filter((id) => !ids.includes(id)) });
  }

  /** Has groups suggested, and measured where the model is loaded. */
  const suggest = () =>
    Widgets.set("suggest", { data: { circuit: State.now().circuit, turn: performance.now() } });

  /** @param {string} name */
  function ungroup(name) {
    const { pins, groups, settings } = State.own();
    const gone = groups.find((one) => one.name === name);
    State.change({}, {
      groups: groups.filter((one) => one !== gone),
      pins: [...pins, ...(gone ? gone.nodes : [])],
      settings: settings.filter(([target]) => target !== `group ${name}`),
    });
  }

  /** @param {string} name @param {string} wanted */
  function rename(name, wanted) {
    const { groups, settings } = State.own();
    const fresh = wanted.trim().slice(0, 200);
    if (!fresh || groups.some((one) => one.name === fresh)) { Lists.render(true); return; }
    State.change({}, {
      groups: groups.map((one) => (one.name === name ? { ...one, name: fresh } : one)),
      settings: settings.map(([target, value]) => [target === `group ${name}` ? `group ${fresh}` : target, value]),
    });
  }

  /** Sets a node or group ("group NAME"), or takes the intervention back with undefined.
   * @param {string} target @param {number | "corrupted" | undefined} setting
   */
  function intervene(target, setting) {
    const before = State.own().settings;
    const others = before.filter(([one]) => one !== target);
    if (setting === undefined) State.change({}, { settings: others });
    else if (others.length < before.length) {
      State.change({}, { settings: before.map(([one, value]) => [one, one === target ? setting : value]) });
    } else State.change({ tab: "ask" }, { settings: [...others, [target, setting]] });
  }

  function switchOff(id = State.own().focus) {
    if (!known(id) || Graphs.isLogit(id)) return;
    const off = State.own().settings.some(([target, value]) => target === id && value === 0);
    intervene(id, off ? undefined : 0);
  }

  /** Switches nodes off together. @param {string[]} ids */
  function switchAllOff(ids) {
    const others = State.own().settings.filter(([target]) => !ids.includes(target));
    /** @type {CircuitState["settings"]} */
    const off = ids.map((id) => [id, 0]);
    State.change({ tab: "ask" }, { settings: [...others, ...off] });
  }

  /** Where a reader writes of the node in focus, by the fields' ids, and how long it may be.
   * @type {Record<string, { which: "labels" | "notes", limit: number }>}
   */
  const TEXTS = { label: { which: "labels", limit: 200 }, note: { which: "notes", limit: 10000 } };

  /** Keeps what stands in a field of a text as it is left, for the node that is in focus then: Dash tells of it later,
   * when another one may be.
   * @param {HTMLElement} at
   */
  function keep(at) {
    const { focus } = State.own();
    if (!Object.hasOwn(TEXTS, at.id) || !known(focus)) return;
    const { value } = /** @type {HTMLInputElement} */ (at), { which, limit } = TEXTS[at.id];
    Widgets.note(at.id, { value });
    if (value === Widgets.own(which, focus)) return;
    const key = Widgets.keyOf(which, focus);
    const { [key]: _old, ...others } = State.own()[which];
    const trimmed = value.trim().slice(0, limit);
    State.change({}, { [which]: trimmed ? { ...others, [key]: trimmed } : others });
    Widgets.searchable();
  }

  /** Shows the introduction or puts it away; a first visitor sees it. @param {boolean} wanted */
  function introduce(wanted) {
    Widgets.element("intro").hidden = !wanted;
    if (!wanted) State.kept(SEEN, "yes");
  }

  /** Fills the form for a new circuit. @param {Record<string, string>} fields */
  function example(fields) {
    for (const [name, value] of Object.entries(fields)) window.dash_clientside.set_props(`new-${name}`, { value });
  }

  /** Ends a job, or has it listed no more. @param {"cancel" | "dismiss"} how @param {string} job */
  function end(how, job) {
    Widgets.set("ending", { data: { job: Number(job), how, turn: performance.now() } });
  }

  /** Has the text continued, as it is and with the nodes set as they are now. */
  function continueText() {
    const data = { circuit: State.now().circuit, settings: Object.fromEntries(Widgets.settings()), turn: performance.now() };
    Widgets.set("continuing", { data });
  }

  // Keys and buttons

  /** @type {Record<string, "up" | "down" | "left" | "right">} */
  const ARROWS = { ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right" };

  /** @type {Record<string, () => void>} */
  const KEYS = {
    "/": () => Widgets.element("search").focus(),
    Escape: () => focus(null),
    p: () => pin(),
    o: () => switchOff(),
    f: () => Graphs.fit(),
    "?": () => introduce(true),
  };

  /** @param {KeyboardEvent} event */
  function onKey(event) {
    const at = /** @type {HTMLElement} */ (event.target);
    const typing = at.closest("input, textarea, select, [contenteditable], [role=dialog], [role=menu]");
    const command = event.ctrlKey || event.metaKey;
    // A slider and a box have no text of their own to take back.
    if (command && event.key.toLowerCase() === "z" && (!typing || at.matches("[type=range], [type=checkbox]"))) {
      event.preventDefault();
      if (typing) at.blur(); // the row of a slider that is held is not made anew
      if (event.shiftKey) State.redo(); else State.undo();
      return;
    }
    if (event.key === "Enter") keep(at);
    if (event.key === "Escape" && at.id === "search") { at.blur(); return; }
    if (typing || command || event.altKey) return;
    const direction = at === document.body || at.closest(".pane") ? ARROWS[event.key] : undefined;
    if (!direction && !KEYS[event.key]) return;
    event.preventDefault();
    if (direction) move(direction); else KEYS[event.key]();
  }

  /** @param {"up" | "down" | "left" | "right"} direction */
  function move(direction) {
    const next = Graphs.neighbour(State.own().focus, direction);
    if (next) focus(next);
  }

  /** What buttons do that others made, by their `data-do`. @type {Record<string, (on: string) => void>} */
  const DOING = {
    focus, pin, ungroup,
    position: (on) => position(Number(on)),
    off: (on) => intervene(on, 0),
    offs: (on) => switchAllOff(JSON.parse(on)),
    keep: (on) => { const { name, nodes } = JSON.parse(on); group(name, nodes); },
    unset: (on) => intervene(on, undefined),
    tab: (on) => State.change({ tab: /** @type {PageState["tab"]} */ (on) }),
    continue: continueText,
    measure: () => Widgets.element("verify").click(),
    example: (on) => example(JSON.parse(on)),
    cancel: (on) => end("cancel", on),
    dismiss: (on) => end("dismiss", on),
  };

  /** What the page's own plain buttons do, by their ids. @type {Record<string, () => void>} */
  const BUTTONS = {
    pin: () => pin(),
    off: () => switchOff(),
    "show-all": () => Widgets.showAll(),
    "suggest-groups": suggest,
    group: () => {
      group(/** @type {HTMLInputElement} */ (Widgets.element("group-name")).value, Lists.ticked());
      window.dash_clientside.set_props("group-name", { value: "" });
    },
    "intro-close": () => introduce(false),
    "intro-show": () => { State.change({ view: "graph", tab: "node" }); focus(State.circuit().strongest); },
    "intro-off": () => {
      const target = State.own().focus || State.circuit().strongest;
      if (!target) return;
      if (State.own().settings.some(([one]) => one === target)) State.change({ tab: "ask" });
      else { focus(target); intervene(target, 0); }
    },
  };

  /** @param {MouseEvent} event */
  function onClick(event) {
    const button = /** @type {Element} */ (event.target).closest("button");
    if (!button) return;
    // Whoever chose a tab by the mouse goes on in the graph by the arrow keys; by keys one goes on among the tabs.
    if (event.detail && button.matches("#side [role=tab]")) Widgets.element("graph-pane").focus({ preventScroll: true });
    if (button.dataset.do) DOING[button.dataset.do](button.dataset.on || "");
    else if (Object.hasOwn(BUTTONS, button.id)) BUTTONS[button.id]();
  }

  function listen() {
    Asking.listen();
    document.addEventListener("keydown", onKey);
    document.addEventListener("click", onClick);
    document.addEventListener("focusout", (event) => keep(/** @type {HTMLElement} */ (event.target)));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => Widgets.publish());
    // Someone follows a link to another state of this very page.
    window.addEventListener("hashchange", () => { State.fromAddress(); Widgets.publish(); });
  }

  return { focus, focusEdge, pin, rename, intervene, introduce, listen, seen: () => Boolean(State.kept(SEEN)) };
})();
