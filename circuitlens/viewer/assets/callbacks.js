// @ts-check
/* What Dash tells the page's script (`app.py` says of what): functions that return nothing. */
(() => {
  let begun = false;
  /** The jobs that this page began, and nobody else: only to their circuits it turns. @type {Set<number>} */
  const mine = new Set();
  /** The number of a circuit that was found, to turn to when the server has told of it. @type {number | null} */
  let found = null;

  function turnToFound() {
    if (found === null || found >= State.given().circuits.length) return;
    const number = found;
    found = null;
    State.change({ circuit: number, other: null });
  }

  /** Most make sense only once the circuits are known. @param {(value: any) => void} action */
  const quiet = (action) => (/** @type {any} */ value) => { if (begun) action(value); };

  /** @param {any} rows @param {string} end */
  const focusRow = (rows, end) => { if (rows?.length) Actions.focus(rows[0][end]); };

  /** @type {Record<string, (...values: any[]) => void>} */
  const topics = {
    /* The page is there, or the server has more circuits than before. */
    begin(data, schema) {
      const options = Object.entries(data.names).map(([value, label]) => ({ value, label }));
      Widgets.set("circuit", { data: options });
      Widgets.set("other", { data: options });
      if (begun) { State.take(data); turnToFound(); return; }
      State.begin(data, schema);
      begun = true;
      Actions.listen();
      Actions.introduce(!Actions.seen());
      Widgets.publish();
    },
    drawn(facts, axes, first, second) {
      if (!facts) return;
      Widgets.takeFacts(facts);
      Graphs.draw([first, second], axes, facts.titles, () => {
        Widgets.searchable();
        Widgets.publish();
        Lists.render(true);
        if (facts.refused) State.change({ other: null });
      });
    },
    laid(layouts) { if (layouts && Graphs.lay(layouts[0])) Widgets.publish(); },
    subgraph(elements) { if (elements) Subgraph.draw(elements); },
    theme(scheme, sheets) {
      for (const id of ["graph", "graph2", "subgraph"]) Widgets.set(id, { stylesheet: sheets[scheme] });
    },
    work(jobs) { Jobs.render(jobs); },
    begun(job) { if (job) mine.add(job); },
    finished({ jobs, made }) {
      for (const job of jobs.filter((/** @type {number} */ one) => mine.delete(one))) found = made[job] ?? found;
      turnToFound();
    },
  };

  const FIELDS = ["adapter", "prompt", "answer", "distractor", "corrupted", "method"];
  const PAUSE = 300; // ms after which a hand that types is taken to rest

  const widgets = {
    /* What stands in the form for a new circuit, in the order of its fields. */
    typed(/** @type {boolean} */ opened, /** @type {(string | null)[]} */ ...values) {
      if (!opened) return;
      const data = Object.fromEntries(FIELDS.map((name, number) => [name, values[number] || ""]));
      Widgets.debounce("typed", PAUSE, () => Widgets.set("typed", { data }));
    },
    set_circuit: quiet((value) => { if (value !== null) State.change({ circuit: Number(value) }); }),
    set_other: quiet((value) => State.change({ other: value ? Number(value) : null })),
    set_search: quiet((value) => {
      if (!value) return;
      if (State.now().view === "evidence") State.change({ view: "graph" });
      Actions.focus(value);
      Widgets.note("search", { value });
      Widgets.set("search", { value: null });
      Widgets.element("graph-pane").focus();
    }),
    set_view: quiet((view) => State.change({ view })),
    set_as: quiet((as) => State.change({ as })),
    set_tab: quiet((tab) => { if (tab) State.change({ tab }); }),
    set_nodes: quiet((stop) => Widgets.slid("nodes", stop)),
    set_edges: quiet((stop) => Widgets.slid("edges", stop)),
    row_node: quiet((rows) => focusRow(rows, "id")),
    row_edge: quiet((rows) => focusRow(rows, "source")),
  };

  const buttons = {
    do_undo: quiet(() => State.undo()),
    do_redo: quiet(() => State.redo()),
    do_new: quiet(() => window.dash_clientside.set_props("new-circuit", { opened: true })),
    do_help: quiet(() => Actions.introduce(Boolean(Widgets.element("intro").hidden))),
    do_scheme: quiet(() => State.setTheme(State.theme() === "dark" ? "light" : "dark")),
    do_fit: quiet(() => Graphs.fit()),
    do_export_png: quiet(() => Picture.save("png", State.given().names[State.now().circuit])),
    do_export_svg: quiet(() => Picture.save("svg", State.given().names[State.now().circuit])),
  };

  const circuitlens = { ...topics, ...widgets, ...buttons };
  window.dash_clientside = Object.assign({}, window.dash_clientside, { circuitlens });
})();
