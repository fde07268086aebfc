// @ts-check
/* The graphs and their places. Only this file, `marks.js`, `scene.js` and `subgraph.js` touch a Cytoscape object.
 *
 * Elements carry their place as fractions of the pane (data x, y); `settle` turns them into pixels, on every new
 * circuit and whenever the pane changes its size. The axes are HTML beside the canvas, which follow its pan and zoom.
 */
const Graphs = (() => {
  const AXIS = [64, 200]; // px left of the columns, for the rows' names: at least and at most
  const FOOT = [30, 78]; // px below the bands, for the tokens: where they stand upright, and where they slant
  const SLANTS = [0, 40, 90]; // degrees by which tokens turn, more where columns are narrower
  const LINE = 17; // px of a column in which a token has room that slants
  const EDGE = 12; // px around everything
  const CHIP = [84, 30]; // px of a chip that has the room, and of an output at least
  const LETTER = 8; // px of a letter of an output
  const PAUSE = 80; // ms after which a zoom is taken to rest
  const NAMES = ["graph", "graph2"];

  /** Each graph's Cytoscape object, by the id of its element. @type {Record<string, cytoscape.Core>} */
  const cores = {};
  /** What is known of each graph that is drawn. @type {Record<string, Pane>} */
  const panes = {};
  /** What waits until a graph holds its elements.
   * @type {Record<string, { ids: string[], then: (cy: cytoscape.Core) => void } | null>}
   */
  const waiting = {};

  // dash-cytoscape has no property and no event for the Cytoscape object of a graph; all it does is to set `window.cy`
  // when it has made one. So this is where each is taken.
  Object.defineProperty(window, "cy", { get: () => cores.graph, set: takeCore });

  // It also hands Cytoscape a wheel sensitivity, the usual one, of which Cytoscape warns whatever it is.
  const warn = console.warn.bind(console);
  console.warn = (...said) => { if (!String(said[0]).startsWith("You have set a custom wheel sensitivity")) warn(...said); };

  /** @param {cytoscape.Core} cy */
  function takeCore(cy) {
    const name = container(cy).id;
    let looking = false;
    cores[name] = cy;
    cy.on("add remove", () => {
      if (looking) return;
      looking = true; // once all elements have changed
      queueMicrotask(() => { looking = false; look(name); });
    });
    look(name);
  }

  /** @param {cytoscape.Core} cy */
  const container = (cy) => /** @type {HTMLElement} */ (cy.container());

  /** @param {string} name */
  function look(name) {
    const cy = cores[name], wanted = waiting[name];
    if (!cy || !wanted || cy.elements().length !== wanted.ids.length) return;
    if (!wanted.ids.every((id) => cy.getElementById(id).nonempty())) return;
    waiting[name] = null;
    wanted.then(cy);
  }

  /** Calls `then(cy)` once a graph holds the elements that were sent to it, unless others are sent before.
   * @param {string} name @param {{ data: { id: string } }[]} elements @param {(cy: cytoscape.Core) => void} then
   */
  function whenDrawn(name, elements, then) {
    waiting[name] = { ids: elements.map(({ data }) => data.id), then };
    look(name);
  }

  /** @param {any[][]} elements @param {Layout[][]} layouts of each graph, or of both @param {string[]} titles
   * @param {() => void} then
   */
  function draw(elements, layouts, titles, then) {
    let missing = NAMES.length;
    NAMES.forEach((name, number) => {
      const title = Widgets.element(`${name}-title`);
      title.textContent = titles[number];
      title.hidden = !titles[number];
      whenDrawn(name, elements[number], (cy) => {
        take(name, cy, layouts[number] || layouts[0]);
        if (--missing) return;
        Marks.reset();
        then();
        NAMES.forEach((one, k) => { Widgets.element(one).dataset.drawn = String(elements[k].length); });
      });
    });
  }

  /** Elements by rank. @param {any} elements @returns {any[]} */
  function ranked(elements) {
    return elements.toArray().sort((/** @type {any} */ a, /** @type {any} */ b) => a.data("rank") - b.data("rank"));
  }

  /** Reads what a graph holds, once. @param {string} name @param {cytoscape.Core} cy @param {Layout[]} layouts */
  function take(name, cy, layouts) {
    const nodes = ranked(cy.nodes("[rank >= 0]")), edges = ranked(cy.edges());
    const fresh = panes[name]?.cy !== cy;
    panes[name] = {
      name, cy, layouts, axes: layouts[layouts.length - 1], nodes, edges, shown: nodes, between: edges, shownEdges: 0,
      ends: edges.map((edge) => [edge.data("source"), edge.data("target")]),
      key: "", axis: 0, foot: FOOT[0], slant: 0, width: 0, height: 0,
    };
    cy.edges().addClass("off");
    if (fresh) watch(name, cy);
  }

  /** Takes other layouts of the circuit that is drawn. @param {Layout[]} layouts @returns {boolean} whether they are */
  function lay(layouts) {
    const pane = panes.graph;
    /** @param {Layout[]} of */
    const whole = (of) => of[of.length - 1].ids.join(" ");
    if (!pane || waiting.graph || whole(layouts) !== whole(pane.layouts)) return false;
    if (JSON.stringify(layouts) === JSON.stringify(pane.layouts)) return false;
    Object.assign(pane, { layouts, key: "" });
    return true;
  }

  /** @param {string} name @param {string} which @returns {HTMLElement} */
  const part = (name, which) => /** @type {HTMLElement} */ (document.querySelector(`#${name}-pane ${which}`));

  /** @param {string} name */
  function label(name) {
    const { rows, columns, gaps } = panes[name].axes;
    /** @param {string} textContent @param {string} title @param {string} [className] */
    const span = (textContent, title, className = "") =>
      Object.assign(document.createElement("span"), { textContent, title, className });
    part(name, ".rows").replaceChildren(...rows.map((row) => span(row.label, row.label)));
    const marks = gaps.map(({ title }) => span("⋯", title, "gap"));
    part(name, ".columns").replaceChildren(...columns.map((column) => span(column.label, column.title)), ...marks);
  }

  /** How far tokens have to turn to have room in their columns. @param {string} name @param {number} width */
  function slantOf(name, width) {
    const { columns } = panes[name].axes, spans = part(name, ".columns").children;
    const narrowest = Math.min(...columns.map((column) => column.width * width));
    const fits = columns.every((column, number) => {
      const span = /** @type {HTMLElement} */ (spans[number]);
      span.style.maxWidth = "";
      return span.scrollWidth <= column.width * width - 4;
    });
    return SLANTS[fits ? 0 : narrowest >= LINE * 1.5 ? 1 : 2];
  }

  /** How wide the rows' names are to be. @param {string} name @param {number} width */
  function axisWidth(name, width) {
    const names = /** @type {HTMLElement[]} */ ([...part(name, ".rows").children]);
    for (const span of names) span.style.maxWidth = "";
    const widest = Math.max(0, ...names.map((span) => span.scrollWidth));
    const axis = Math.min(Math.max(AXIS[0], widest + 3 * EDGE), AXIS[1], width / 4);
    for (const span of names) span.style.maxWidth = `${axis - 2 * EDGE}px`;
    return axis;
  }

  /** Puts the nodes in their places in the pane, and shows it whole. @param {string} name */
  function settle(name) {
    const pane = panes[name];
    const box = container(pane.cy);
    if (!box.clientWidth || !box.clientHeight) return; // out of sight; done when it comes into sight
    pane.cy.resize();
    pane.axis = axisWidth(name, box.clientWidth);
    pane.width = Math.max(box.clientWidth - pane.axis - EDGE, 160);
    pane.slant = slantOf(name, pane.width);
    pane.foot = FOOT[pane.slant ? 1 : 0];
    part(name, ".columns").style.height = `${pane.foot}px`;
    part(name, ".columns").dataset.slant = String(pane.slant);
    pane.height = Math.max(box.clientHeight - pane.foot - 2 * EDGE, 160);
    pane.cy.batch(() => {
      for (const node of pane.cy.nodes().toArray()) place(node, pane, box.clientWidth);
    });
    pane.cy.zoom(1);
    pane.cy.pan({ x: 0, y: 0 });
    follow(name);
    Naming.name(pane);
  }

  /** @param {cytoscape.NodeSingular} node @param {Pane} pane @param {number} across */
  function place(node, { axis, width, height }, across) {
    const { x, y, high, room } = node.data();
    if (node.hasClass("band")) {
      node.data({ w: across - 2 * EDGE, h: height * high - 6 });
      node.position({ x: across / 2, y: EDGE + y * height });
      return;
    }
    if (node.hasClass("chip")) {
      const most = node.hasClass("logit") ? Math.max(CHIP[0], LETTER * node.data("label").length + 20) : CHIP[0];
      const w = Math.max(Math.min(most, room * width - 6), 6);
      const h = Math.min(CHIP[1], height * high);
      node.data({ w, h, text: w - 6, font: Math.min(12, 0.8 * h) });
    }
    node.position({ x: axis + x * width, y: EDGE + y * height });
  }

  /** Puts the axes where the graph is now. @param {string} name */
  function follow(name) {
    const { cy, axes, axis, foot, slant, width, height } = panes[name];
    const zoom = cy.zoom(), pan = cy.pan();
    const rows = part(name, ".rows").children, columns = part(name, ".columns").children;
    axes.rows.forEach((row, number) => {
      const at = pan.y + zoom * (EDGE + row.y * height);
      const span = /** @type {HTMLElement} */ (rows[number]);
      span.style.top = `${at}px`;
      span.style.fontSize = `${Math.max(6, Math.min(11, zoom * height * row.high))}px`;
      span.hidden = at < 0 || at > cy.height() - foot;
    });
    [...axes.columns, ...axes.gaps].forEach(({ x }, number) => {
      const at = pan.x + zoom * (axis + x * width);
      const span = /** @type {HTMLElement} */ (columns[number]), column = axes.columns[number];
      span.style.left = `${at}px`;
      span.style.maxWidth = slant || !column ? "" : `${zoom * column.width * width - 4}px`;
      span.hidden = at < axis / 2 || at > cy.width() + 1;
    });
  }

  // What readers do

  /** @param {string} name @param {cytoscape.Core} cy */
  function watch(name, cy) {
    cy.on("tap", "node", (event) => {
      const id = event.target.data("node");
      if (!id) return;
      const { ctrlKey, metaKey } = /** @type {any} */ (event).originalEvent || {};
      if (ctrlKey || metaKey) Actions.pin(id); else Actions.focus(id);
    });
    cy.on("tap", "edge", (event) => Actions.focusEdge(...ends(event.target)));
    cy.on("tap", (event) => { if (event.target === cy) Actions.focus(null); });
    cy.on("mouseover", "node[title]", ({ target }) => hover(cy, target, target.data("title"), target.renderedPosition()));
    cy.on("mouseover", "edge", ({ target, renderedPosition }) => {
      const [source, goal] = ends(target).map(Widgets.name);
      hover(cy, target, `${source} → ${goal}: ${target.data("told")}`, renderedPosition);
    });
    cy.on("mouseout", "node, edge", (event) => {
      container(cy).style.cursor = "";
      event.target.removeClass("hovered");
      tip().hidden = true;
    });
    cy.on("pan zoom", () => { if (panes[name].width) follow(name); });
    cy.on("zoom", () => Widgets.debounce(`names ${name}`, PAUSE, () => { if (panes[name].width) Naming.name(panes[name]); }));
    new ResizeObserver(() => settle(name)).observe(container(cy));
  }

  /** The nodes that an edge joins. @param {cytoscape.EdgeSingular} edge @returns {[string, string]} */
  const ends = (edge) => [edge.source().data("node"), edge.target().data("node")];

  /** What is said of the node or edge under the pointer. */
  const tip = () => document.getElementById("tip") ||
    document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));

  /** @param {cytoscape.Core} cy @param {cytoscape.SingularElementReturnValue} what
   * @param {string} text @param {{ x: number, y: number }} at
   */
  function hover(cy, what, text, at) {
    const box = container(cy).getBoundingClientRect();
    container(cy).style.cursor = "pointer";
    what.addClass("hovered");
    tip().textContent = text;
    tip().hidden = false;
    const left = Math.min(box.x + at.x + 16, innerWidth - tip().offsetWidth - 8);
    Object.assign(tip().style, { left: `${left}px`, top: `${Math.max(box.y + at.y - 40, 4)}px` });
  }

  /** The node to go to from another: along its strongest edge up or down, or beside it in its row.
   * @param {string | null} id @param {"up" | "down" | "left" | "right"} direction @returns {string | null}
   */
  function neighbour(id, direction) {
    const { cy, shown: nodes, axes } = panes.graph;
    const from = cy.getElementById(`node ${id}`);
    if (!id || from.empty()) return nodes.length ? nodes[0].data("node") : null;
    if (direction === "up" || direction === "down") {
      const there = (direction === "up" ? from.outgoers() : from.incomers()).nodes().not(".away");
      const [strongest] = ranked(from.edgesWith(there).filter((edge) => (direction === "up" ? edge.source() : edge.target()).same(from)));
      return strongest ? (direction === "up" ? strongest.target() : strongest.source()).data("node") : null;
    }
    /** @param {cytoscape.NodeSingular} node */
    const row = (node) => axes.rows.findIndex(({ y, high }) => Math.abs(node.data("y") - y) <= high / 2);
    const beside = cy.nodes("[node]").toArray().filter((node) => !node.hasClass("away") && row(node) === row(from));
    beside.sort((a, b) => a.data("x") - b.data("x") || a.data("y") - b.data("y"));
    const next = beside[beside.findIndex((node) => node.same(from)) + (direction === "right" ? 1 : -1)];
    return next ? next.data("node") : null;
  }

  /** A node of either graph. @param {string} id */
  const find = (id) => all().map(({ cy }) => cy.getElementById(`node ${id}`)).find((node) => node.nonempty());

  const all = () => NAMES.map((name) => panes[name]).filter(Boolean);

  /** Of the fuller graph: how many nodes there are and edges between those on show, how many of them are on show, and
   * which share these have of all attribution or weight.
   */
  function totals() {
    /** @param {any[]} part @param {any[]} whole @param {string} size */
    const share = (part, whole, size) => {
      const sum = (/** @type {any[]} */ elements) => elements.reduce((all, element) => all + element.data(size) ** 2, 0);
      return sum(whole) ? sum(part) / sum(whole) : 1;
    };
    const [most] = all().sort((a, b) => b.nodes.length - a.nodes.length);
    const [dense] = all().sort((a, b) => b.between.length - a.between.length);
    if (!most) return { nodes: { count: 0, at: 0, share: 1 }, edges: { count: 0, at: 0, share: 1 } };
    return {
      nodes: { count: most.nodes.length, at: most.shown.length, share: share(most.shown, most.nodes, "size") },
      edges: {
        count: dense.between.length, at: dense.shownEdges,
        share: share(dense.between.slice(0, dense.shownEdges), dense.edges, "strength"),
      },
    };
  }

  // For tests and for who looks into a page: a graph's Cytoscape object by the id of its element.
  window.circuitlens = { cy: (name) => cores[name] };

  return {
    draw, lay, whenDrawn, ranked, container, neighbour, all, totals, label, settle, EDGE,
    fit: () => { for (const { name } of all()) settle(name); },
    /** @param {string} id @returns {string | undefined} */
    nameOf: (id) => find(id)?.data("label"),
    /** @param {string} id */
    isLogit: (id) => Boolean(find(id)?.hasClass("logit")),
  };
})();
