// @ts-check
/* A shared page: draws the graph, and shows what its file knows of a node or edge that is clicked. It asks nobody anything.
 *
 * The page's scripts for graphs expect `Widgets` and `Actions`; here they are the few that a shared page has.
 */
(() => {
  const EDGES = 80; // shown at first, as on the page

  /** @param {string} id @returns {HTMLElement} */
  const element = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
  /** @param {string} id */
  const input = (id) => /** @type {HTMLInputElement} */ (element(id));

  const data = JSON.parse(element("data").textContent || "");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const named = new Map(data.elements.filter((/** @type {any} */ one) => one.data.node).map((/** @type {any} */ one) => [one.data.node, one.data]));
  /** @type {Record<string, number>} */
  const timers = {};
  /** @type {{ nodes: number | null, edges: number, focus: string | null, edge: [string, string] | null }} */
  const view = { nodes: null, edges: EDGES, focus: null, edge: null };

  /** @param {HTMLTemplateElement} template what is known of what is in focus, if there is anything */
  const known = (template) => template.content.cloneNode(true);

  function show() {
    Marks.apply({ ...view, position: null, pins: new Set(data.pins), labels: data.labels, settings: new Map() });
    /** @type {HTMLTemplateElement[]} */
    const templates = [...document.querySelectorAll("template")];
    const found = templates.find(({ dataset }) =>
      view.edge ? dataset.source === view.edge[0] && dataset.target === view.edge[1] : view.focus !== null && dataset.node === view.focus);
    element("detail").replaceChildren(...(found ? [back(), known(found)] : []));
    element("detail").hidden = !found;
    element("answer").hidden = Boolean(found);
    element("side").scrollTop = 0;
    sliders();
  }

  /** The button that leads from a node to the answer. */
  function back() {
    const button = Object.assign(document.createElement("button"), { id: "back", className: "do", textContent: "← The answer" });
    button.addEventListener("click", () => Actions.focus(null));
    return button;
  }

  function sliders() {
    const { nodes, edges } = Graphs.totals();
    for (const [name, { count, at }] of Object.entries({ nodes, edges })) {
      input(name).max = String(count);
      input(name).value = String(at);
      element(`${name}-shown`).textContent = `${at} of ${count}`;
    }
    const opens = Layouts.opens();
    if (view.nodes === null && opens) element("nodes-shown").textContent = `${opens}, ${nodes.at} of ${nodes.count}`;
  }

  function theme() {
    const scheme = dark.matches ? "dark" : "light";
    document.documentElement.dataset.mantineColorScheme = scheme;
    for (const { cy } of Graphs.all()) cy.style(data.sheets[scheme]);
  }

  /** @param {string} wanted */
  function look(wanted) {
    element("page").dataset.view = wanted;
    for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-view-of]"))) {
      button.setAttribute("aria-pressed", String(button.dataset.viewOf === wanted));
    }
  }

  /** @param {KeyboardEvent} event */
  function key(event) {
    if (event.key === "Escape") Actions.focus(null);
    const way = /** @type {const} */ ({ ArrowUp: "up", ArrowDown: "down", ArrowLeft: "left", ArrowRight: "right" })[event.key];
    if (!way || document.activeElement !== element("graph-pane")) return;
    event.preventDefault();
    Actions.focus(Graphs.neighbour(view.focus, way) ?? view.focus);
  }

  function listen() {
    for (const name of /** @type {const} */ (["nodes", "edges"])) {
      input(name).addEventListener("input", () => { view[name] = Number(input(name).value); show(); });
    }
    element("fit").addEventListener("click", Graphs.fit);
    document.addEventListener("keydown", key);
    document.addEventListener("click", ({ target }) => {
      const { dataset } = /** @type {HTMLElement} */ (/** @type {Element} */ (target).closest("button")) || {};
      if (dataset?.viewOf) look(dataset.viewOf);
      if (dataset?.do === "focus") { look("graph"); Actions.focus(dataset.on ?? null); }
    });
    dark.addEventListener("change", theme);
  }

  Object.assign(window, {
    Widgets: {
      element, plain: (/** @type {string} */ text) => text,
      name: (/** @type {string} */ id) => named.get(id)?.title.split(": attribution")[0] ?? id,
      debounce: (/** @type {string} */ name, /** @type {number} */ wait, /** @type {() => void} */ action) => {
        clearTimeout(timers[name]);
        timers[name] = window.setTimeout(action, wait);
      },
    },
    Actions: {
      pin: () => {},
      focus: (/** @type {string | null} */ id) => { Object.assign(view, { focus: id, edge: null }); show(); },
      focusEdge: (/** @type {string} */ source, /** @type {string} */ target) => {
        Object.assign(view, { focus: null, edge: [source, target] });
        show();
      },
    },
  });

  const { React, ReactDOM, dash_cytoscape: made } = /** @type {any} */ (window);
  // The empty second graph first: the first one is told of its size as soon as it is there, and is to be drawn by then.
  for (const [id, elements] of [["graph2", []], ["graph", data.elements]]) {
    const properties = { ...data.graph, id, elements, stylesheet: data.sheets[dark.matches ? "dark" : "light"], setProps: () => {} };
    ReactDOM.createRoot(element(`${id}-place`)).render(React.createElement(made.Cytoscape, properties));
  }
  listen();
  Graphs.draw([data.elements, []], [data.layouts], ["", ""], () => { theme(); show(); });
})();
