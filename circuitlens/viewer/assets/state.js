/* The page's state: one object, changed by `change` only, kept in the address, undone step by step, and handed on in
 * topics (Dash stores) to whoever shows a part of it. The graphs are drawn by `graph.js`, the lists by `lists.js`.
 */
(function () {
  "use strict";

  const page = (window.circuitlens = window.circuitlens || {});
  const FRESH = { circuit: 0, other: null, as: "side", view: "graph", tab: "node", theme: null, by: {} };
  const OWN = { focus: null, pins: [], groups: [], labels: {}, notes: {}, nodes: null, edges: null, settings: [] };
  const UNSTEPPED = ["tab", "view", "theme", "focus"]; // what one looks at, and not what one did
  const EDGES = 80; // shown at first: more than about a hundred are haze
  const STEPS = 200; // that can be undone
  const TOGETHER = 800; // ms within which changes of one kind are one step
  const SEEN = "circuitlens-introduction-seen";
  const THEME = "circuitlens-theme";
  const STEPPED = "circuitlens-steps";

  let state = structuredClone(FRESH);
  let given = null; // what the server said of the circuits that are open
  let facts = null; // of what is drawn: its nodes, its counts
  let stops = { nodes: [0], edges: [0] };
  let past = [];
  let future = [];
  let last = { kind: "", time: 0 };
  let told = {}; // what each store and widget was last set to
  let timers = {};
  let found = null; // the number of a circuit to turn to when it is there

  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const noted = (number) => ({ ...OWN, ...((given && given.circuits[number] || {}).annotations || {}) });
  const ownOf = (number, of = state) => {
    const { theme, ...rest } = { ...noted(number), ...of.by[number] };
    return rest;
  };
  const own = () => ownOf(state.circuit);
  const foreign = (id) => !facts || !facts.nodes.some((node) => node.value === id && !node.foreign);

  function set(id, props) {
    if (same(told[id], { ...told[id], ...props })) return;
    told[id] = { ...told[id], ...props };
    window.dash_clientside.set_props(id, props);
  }

  /* Later than now, and once for all that is asked meanwhile. */
  function soon(name, wait, action) {
    clearTimeout(timers[name]);
    timers[name] = setTimeout(action, wait);
  }

  function change(part, mine = {}) {
    const next = { ...state, ...part };
    const number = next.circuit;
    if (Object.keys(mine).length) next.by = { ...next.by, [number]: { ...ownOf(number), ...mine } };
    if (same(next, state)) return;
    const keys = [...Object.keys(part), ...Object.keys(mine)].filter((key) => !UNSTEPPED.includes(key));
    if (keys.length) {
      const kind = keys.join();
      const now = performance.now();
      if (kind !== last.kind || now - last.time > TOGETHER) past = [...past, state].slice(-STEPS);
      last = { kind, time: now };
      future = [];
    }
    state = next;
    publish();
  }

  /* Takes a step back or forth, and leaves alone what one looks at. */
  function step(from, to) {
    if (!from.length) return;
    const other = from.pop();
    to.push(state);
    const by = {};
    for (const number of new Set([...Object.keys(other.by), ...Object.keys(state.by)])) {
      by[number] = { ...ownOf(number, other), focus: ownOf(number).focus };
    }
    state = { ...other, by, tab: state.tab, view: state.view, theme: state.theme };
    last = { kind: "", time: 0 };
    publish();
  }

  /* Shows a circuit that was found, once the server has told of it. */
  function turnToFound() {
    if (found === null || found >= given.circuits.length) return;
    const number = found;
    found = null;
    change({ circuit: number, other: null });
  }

  // The address

  function address() {
    const short = {};
    for (const key of Object.keys(FRESH)) if (key !== "by" && !same(state[key], FRESH[key])) short[key] = state[key];
    for (const number of Object.keys(state.by)) {
      const base = noted(number);
      const mine = Object.entries(ownOf(number)).filter(([key, value]) => !same(value, base[key]));
      if (mine.length) short.by = { ...short.by, [number]: Object.fromEntries(mine) };
    }
    return Object.keys(short).length ? "#" + encodeURIComponent(JSON.stringify(short)) : "";
  }

  function remember() {
    const wanted = location.pathname + location.search + address();
    if (wanted !== location.pathname + location.search + location.hash) history.replaceState(null, "", wanted);
    try { sessionStorage.setItem(STEPPED, JSON.stringify({ at: address(), past, future })); } catch { /* then a reload forgets the steps */ }
  }

  /* After a reload of the same state its steps can still be undone. */
  function recall() {
    try {
      const kept = JSON.parse(sessionStorage.getItem(STEPPED) || "{}");
      if (kept.at === address()) [past, future] = [kept.past, kept.future];
    } catch { past = future = []; }
  }

  /* An address may come from anyone: of it is taken what has the right form. */
  function fromAddress() {
    let read = {};
    try { read = JSON.parse(decodeURIComponent(location.hash.slice(1) || "{}")) || {}; } catch { read = {}; }
    const count = given.circuits.length;
    const circuit = (value) => Number.isInteger(value) && value >= 0 && value < count;
    const string = (value) => typeof value === "string";
    const strings = (value) => Array.isArray(value) && value.every(string);
    const texts = (value) => value && typeof value === "object" && !Array.isArray(value) && Object.values(value).every(string);
    const number = (value) => value === null || (Number.isInteger(value) && value >= 0);
    const forms = {
      circuit, other: circuit, as: (v) => ["side", "difference"].includes(v),
      view: (v) => ["graph", "table", "evidence"].includes(v), tab: (v) => ["node", "pinned", "ask", "about"].includes(v),
      theme: (v) => ["light", "dark"].includes(v),
    };
    const mine = {
      focus: (v) => v === null || string(v), pins: strings, labels: texts, notes: texts, nodes: number, edges: number,
      groups: (v) => Array.isArray(v) && v.every((g) => g && string(g.name) && strings(g.nodes)),
      settings: (v) => Array.isArray(v) && v.every((s) => Array.isArray(s) && string(s[0]) &&
        (s[1] === "corrupted" || Number.isFinite(s[1]))),
    };
    const taken = (from, checks) => Object.fromEntries(
      Object.entries(checks).filter(([key, fits]) => from && key in from && fits(from[key])).map(([key]) => [key, from[key]]));
    const by = {};
    for (const key of Object.keys(read.by || {})) if (circuit(Number(key))) by[key] = { ...noted(key), ...taken(read.by[key], mine) };
    state = { ...structuredClone(FRESH), theme: kept(THEME) || noted(0).theme || null, ...taken(read, forms), by };
    if (!["light", "dark"].includes(state.theme)) state.theme = null;
  }

  function kept(name, value) {
    try {
      if (value !== undefined) localStorage.setItem(name, value);
      return localStorage.getItem(name);
    } catch { return null; } // a browser may forbid it; then nothing is kept
  }

  // What others are told

  const theme = () => state.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const shownEdges = () => own().edges ?? EDGES;
  const shownNodes = () => own().nodes ?? Infinity;

  /* Interventions by node: a group's is that of each of its nodes. */
  function settings() {
    const { groups, settings } = own();
    const found = {};
    for (const [target, setting] of settings) {
      const group = groups.find((one) => target === "group " + one.name);
      for (const id of group ? group.nodes : [target]) found[id] = setting;
    }
    return found;
  }

  function publish() {
    const mine = own();
    const { circuit, other, as, view, tab } = state;
    const root = document.getElementById("page");
    Object.assign(root.dataset, { view, compare: other === null ? "none" : as });
    set("shown", { data: { circuit, other, as } });
    set("focused", { data: { circuit, other, node: mine.focus } });
    set("pinned", { data: { circuit, pins: mine.pins, groups: mine.groups, labels: mine.labels } });
    set("reading", { data: view === "graph" ? { view } : { circuit, other, view, labels: mine.labels, notes: mine.notes } });
    set("theme", { data: theme() });
    const annotations = { ...mine, focus: foreign(mine.focus) ? null : mine.focus, theme: state.theme };
    delete annotations.settings;
    set("kept", { data: { circuit, annotations: JSON.stringify(annotations) } });
    const active = tab === "ask" || mine.settings.length > 0;
    soon("asked", 60, () => set("asked", { data: { circuit, settings: settings(), active } }));

    set("circuit", { value: String(circuit) });
    set("other", { value: other === null ? null : String(other) });
    set("as", { value: as });
    set("view", { value: view });
    set("tab", { value: tab });
    set("label", { value: mine.labels[mine.focus] || "" });
    set("note", { value: mine.notes[mine.focus] || "" });
    set("undo", { disabled: !past.length });
    set("redo", { disabled: !future.length });
    if (state.theme) set("provider", { forceColorScheme: state.theme });
    document.body.dataset.agThemeMode = theme();

    sliders();
    const ids = new Set(mine.groups.flatMap((group) => group.nodes).concat(mine.pins));
    page.graph.apply({
      edges: shownEdges(), nodes: shownNodes(), focus: mine.focus, pins: ids, labels: mine.labels, settings: settings(),
    });
    page.lists.render();
    head();
    soon("address", 250, remember);
  }

  function head() {
    const { focus, labels, pins, groups, settings } = own();
    const node = facts && facts.nodes.find((one) => one.value === focus);
    const off = settings.some(([target, setting]) => target === focus && setting === 0);
    const grouped = groups.some((group) => group.nodes.includes(focus));
    document.getElementById("node-name").textContent = node ? labels[focus] || page.graph.label(focus) || focus : "";
    document.getElementById("node-name").hidden = !node;
    document.getElementById("node-tools").hidden = !node || foreign(focus);
    document.getElementById("own").hidden = !node || foreign(focus);
    document.getElementById("pin").textContent = pins.includes(focus) ? "Unpin" : "Pin";
    document.getElementById("pin").hidden = grouped;
    document.getElementById("off").textContent = off ? "Switch on" : "Switch off";
    document.getElementById("off").hidden = page.graph.kind(focus) === "logit";
  }

  /* How many each stop of a slider shows: one more each up to 100, 5 % more each from there. */
  function stopsOf(count) {
    const found = Array.from({ length: Math.min(count, 100) + 1 }, (_, i) => i);
    while (found.at(-1) < count) found.push(Math.min(Math.floor(found.at(-1) * 21 / 20), count));
    return found;
  }

  function sliders() {
    const totals = page.graph.totals();
    for (const [name, shown] of [["nodes", shownNodes()], ["edges", shownEdges()]]) {
      const { count, share } = totals[name];
      if (stops[name].at(-1) !== count) stops[name] = stopsOf(count);
      const at = Math.min(shown, count);
      const stop = stops[name].findLastIndex((one) => one <= at);
      set(name, { max: Math.max(stops[name].length - 1, 1), value: stop });
      const part = count ? ` · ${Math.floor(100 * share(at) + 1e-9)} %` : "";
      document.getElementById(`${name}-shown`).textContent = `${grouped(at)} of ${grouped(count)}${part}`;
    }
  }

  const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");

  // What readers do

  function focus(id) { change({ tab: id && state.tab === "about" ? "node" : state.tab }, { focus: id }); }

  function pin(id = own().focus) {
    if (!id || foreign(id)) return;
    const { pins, groups } = own();
    if (groups.some((group) => group.nodes.includes(id))) return;
    change({}, { pins: pins.includes(id) ? pins.filter((one) => one !== id) : [...pins, id] });
  }

  function group(name, ids) {
    const { pins, groups } = own();
    if (!ids.length) return;
    let unique = name.trim() || "group";
    for (let n = 2; groups.some((one) => one.name === unique); n++) unique = `${name.trim() || "group"} ${n}`;
    change({}, { groups: [...groups, { name: unique.slice(0, 200), nodes: ids }], pins: pins.filter((id) => !ids.includes(id)) });
  }

  function ungroup(name) {
    const { pins, groups, settings } = own();
    const gone = groups.find((one) => one.name === name);
    change({}, {
      groups: groups.filter((one) => one !== gone), pins: [...pins, ...gone.nodes],
      settings: settings.filter(([target]) => target !== "group " + name),
    });
  }

  function rename(name, wanted) {
    const { groups, settings } = own();
    const fresh = wanted.trim().slice(0, 200);
    if (!fresh || groups.some((one) => one.name === fresh)) { page.lists.render(true); return; }
    change({}, {
      groups: groups.map((one) => (one.name === name ? { ...one, name: fresh } : one)),
      settings: settings.map(([target, value]) => [target === "group " + name ? "group " + fresh : target, value]),
    });
  }

  /* Sets a node or group ("group NAME"), or takes the intervention back with undefined. */
  function intervene(target, setting) {
    const others = own().settings;
    const there = others.some(([one]) => one === target);
    if (setting === undefined) change({}, { settings: others.filter(([one]) => one !== target) });
    else if (there) change({}, { settings: others.map(([one, value]) => [one, one === target ? setting : value]) });
    else change({ tab: "ask" }, { settings: [...others, [target, setting]] });
  }

  function switchOff(id = own().focus) {
    if (!id || foreign(id) || page.graph.kind(id) === "logit") return;
    intervene(id, own().settings.some(([target, value]) => target === id && value === 0) ? undefined : 0);
  }

  function write(which, text, limit) {
    const { focus } = own();
    if (!focus || foreign(focus)) return;
    const { [focus]: _old, ...others } = own()[which];
    const trimmed = (text || "").trim().slice(0, limit);
    change({}, { [which]: trimmed ? { ...others, [focus]: trimmed } : others });
  }

  function introduce(wanted) {
    document.getElementById("intro").hidden = !wanted;
    if (!wanted) kept(SEEN, "yes");
  }

  function move(direction) {
    const next = page.graph.neighbour(own().focus, direction);
    if (next) focus(next);
  }

  const ARROWS = { ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right" };

  function onKey(event) {
    const at = event.target;
    const typing = at.closest("input, textarea, select, [contenteditable], [role=dialog], [role=menu]");
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && !typing) {
      event.preventDefault();
      if (event.shiftKey) step(future, past); else step(past, future);
      return;
    }
    if (event.key === "Escape" && at.id === "search") { at.blur(); return; }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const free = at === document.body || at.closest(".pane");
    const keys = {
      "/": () => document.getElementById("search").focus(), Escape: () => focus(null), p: () => pin(), o: () => switchOff(),
      f: () => page.graph.fit(), "?": () => introduce(true),
    };
    const action = keys[event.key] || (free && ARROWS[event.key] && (() => move(ARROWS[event.key])));
    if (!action) return;
    event.preventDefault();
    action();
  }

  /* Buttons that others made: what they do and on what stands in their data. */
  function onClick(event) {
    const menu = document.getElementById("export");
    if (!event.target.closest("#export summary")) menu.open = false; // a choice was made, or something else was
    const button = event.target.closest("[data-do], #pin, #off, #group, #intro-close, #intro-show, #intro-off");
    if (!button) return;
    const strongest = given && (given.circuits[state.circuit] || {}).strongest;
    const doing = {
      focus: (on) => focus(on), pin: (on) => pin(on), ungroup: (on) => ungroup(on),
      off: (on) => intervene(on, 0), unset: (on) => intervene(on, undefined), example: (on) => example(JSON.parse(on)),
    };
    const named = {
      pin: () => pin(), off: () => switchOff(), "intro-close": () => introduce(false),
      "intro-show": () => { change({ view: "graph", tab: "node" }); focus(strongest); },
      "intro-off": () => {
        const target = own().focus || strongest;
        if (own().settings.some(([one]) => one === target)) change({ tab: "ask" });
        else { focus(target); intervene(target, 0); }
      },
      group: () => {
        group(document.getElementById("group-name").value, page.lists.ticked());
        set("group-name", { value: "" });
      },
    };
    if (button.dataset.do) doing[button.dataset.do](button.dataset.on); else named[button.id]();
  }

  function example(question) {
    for (const [name, value] of Object.entries(question)) set(`new-${name}`, { value });
    told = Object.fromEntries(Object.entries(told).filter(([id]) => !id.startsWith("new-")));
  }

  function listen() {
    document.addEventListener("keydown", onKey);
    document.addEventListener("click", onClick);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => publish());
    // Someone follows a link to another state of this very page.
    window.addEventListener("hashchange", () => { fromAddress(); publish(); });
  }

  page.state = { own, focus, pin, rename, intervene, grouped, strongest: () => given.circuits[state.circuit], name };

  /* What a node or "group NAME" is called. */
  function name(target) {
    if (target.startsWith("group ")) return target.slice(6);
    const known = facts && facts.nodes.find((node) => node.value === target);
    return own().labels[target] || (known ? known.label.split(" · ")[0] : target);
  }

  function searchable() {
    const { labels } = own();
    const data = facts.nodes.map(({ value, label }) => ({ value, label: labels[value] ? `${labels[value]} · ${label}` : label }));
    set("search", { data });
  }

  // Callbacks that change the page and no output of Dash's; most make sense only once the circuits are known.
  const silent = (action) => (...values) => { action(...values); return window.dash_clientside.no_update; };
  const quiet = (action) => silent((value) => { if (given) action(value); });

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    circuitlens: {
      /* The page is there, or the server has more circuits than before. */
      begin: silent((data) => {
        const first = given === null;
        given = data;
        const options = data.names.map((label, number) => ({ value: String(number), label }));
        set("circuit", { data: options });
        set("other", { data: options });
        if (!first) { turnToFound(); return; }
        listen();
        fromAddress();
        recall();
        introduce(!kept(SEEN));
        publish();
      }),
      drawn: silent((data, axes, first, second) => {
        if (!data) return;
        facts = data;
        document.getElementById("left-out").textContent = data.leftOut;
        document.getElementById("left-out").hidden = !data.leftOut;
        page.graph.draw([first, second], axes, data.titles, () => { searchable(); publish(); page.lists.render(true); });
      }),
      subgraph: silent((elements) => { if (elements) page.graph.drawSubgraph(elements); }),
      theme: silent((scheme, sheets) => {
        for (const id of ["graph", "graph2", "subgraph"]) set(id, { stylesheet: sheets[scheme] });
      }),
      finished: silent((job) => {
        if (!job || job.state !== "done" || job.result === null) return;
        found = job.result;
        turnToFound();
      }),
      set_circuit: quiet((value) => { if (value !== null) change({ circuit: Number(value) }); }),
      set_other: quiet((value) => change({ other: value === null || value === undefined || value === "" ? null : Number(value) })),
      set_search: quiet((value) => {
        if (!value) return;
        change({ view: state.view === "evidence" ? "graph" : state.view });
        focus(value);
        told.search = { ...told.search, value };
        set("search", { value: null });
        document.querySelector("#graph-pane").focus();
      }),
      set_view: quiet((value) => change({ view: value })),
      set_as: quiet((value) => change({ as: value })),
      set_tab: quiet((value) => { if (value) change({ tab: value }); }),
      set_nodes: quiet((stop) => slid("nodes", stop, shownNodes())),
      set_edges: quiet((stop) => slid("edges", stop, shownEdges())),
      set_label: quiet((text) => { write("labels", text, 200); if (facts) searchable(); }),
      set_note: quiet((text) => write("notes", text, 10000)),
      do_undo: quiet(() => step(past, future)),
      do_redo: quiet(() => step(future, past)),
      do_new: quiet(() => { delete told["new-circuit"]; set("new-circuit", { opened: true }); }),
      do_help: quiet(() => introduce(document.getElementById("intro").hidden)),
      do_scheme: quiet(() => {
        const chosen = theme() === "dark" ? "light" : "dark";
        kept(THEME, chosen);
        change({ theme: chosen });
      }),
      do_fit: quiet(() => page.graph.fit()),
      do_export_png: quiet(() => page.picture.save("png", given.names[state.circuit])),
      do_export_svg: quiet(() => page.picture.save("svg", given.names[state.circuit])),
      row_node: quiet((rows) => { if (rows && rows.length) focus(rows[0].id); }),
      row_edge: quiet((rows) => { if (rows && rows.length) focus(rows[0].source); }),
    },
  });

  /* A slider reports also what it was set to; only what differs is somebody's wish. */
  function slid(which, stop, now) {
    told[which] = { ...told[which], value: stop };
    const { count } = page.graph.totals()[which];
    const wanted = stops[which][stop];
    if (wanted === undefined || wanted === Math.min(now, count)) return;
    if (stop !== stops[which].findLastIndex((one) => one <= Math.min(now, count))) change({}, { [which]: wanted });
  }
})();
