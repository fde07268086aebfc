// @ts-check
/* What the page's state shows on the graphs: sliders, focus, pins, names and interventions toggle classes, and never
 * ask the server.
 */
const Marks = (() => {
  const REVEALED = 10; // edges of a focused node, each way, that are on show whatever the threshold
  const NAMED = 4; // of these, edges whose other ends are named where names are hidden

  /** What was asked last. @type {Marked | null} */
  let wanted = null;

  /** @param {Marked} view */
  function apply(view) {
    const before = wanted;
    wanted = view;
    for (const pane of Graphs.all()) {
      pane.cy.batch(() => {
        threshold(pane, view);
        if (!before || changed(before, view)) mark(pane.cy, view);
        // The slider moves the edges that a focus shows.
        if (view.focus || !before || before.focus) focus(pane.cy, view.focus);
      });
    }
  }

  /** @param {Marked} before @param {Marked} view */
  function changed(before, view) {
    /** @param {Marked} of */
    const marks = ({ pins, labels, settings }) => JSON.stringify([[...pins], labels, [...settings]]);
    return marks(before) !== marks(view);
  }

  /** Touches only the edges and nodes between the old threshold and the new. @param {Pane} pane @param {Marked} view */
  function threshold(pane, view) {
    /** @param {any[]} list @param {number} shown @param {number} count @param {string} hidden */
    const move = (list, shown, count, hidden) => {
      const now = Math.min(count, list.length);
      for (let i = Math.min(now, shown); i < Math.max(now, shown); i++) list[i].toggleClass(hidden, i >= now);
      return now;
    };
    pane.shownEdges = move(pane.edges, pane.shownEdges, view.edges, "off");
    pane.shownNodes = move(pane.nodes, pane.shownNodes, view.nodes, "away");
  }

  /** @param {cytoscape.Core} cy @param {Marked} view */
  function mark(cy, { pins, settings, labels }) {
    cy.nodes(".pinned, .intervened").removeClass("pinned intervened");
    cy.nodes("[name]").removeData("name");
    /** @param {string} id */
    const at = (id) => cy.getElementById(`node ${id}`);
    for (const id of pins) at(id).addClass("pinned");
    for (const id of settings.keys()) at(id).addClass("intervened");
    if (!Object.keys(labels).length) return;
    cy.nodes("[node]").forEach((node) => {
      const key = node.data("key");
      if (Object.hasOwn(labels, key)) node.data({ name: labels[key] });
    });
  }

  /** A focused node keeps its neighbours along the edges on show and its strongest; the rest fades.
   * @param {cytoscape.Core} cy @param {string | null} id
   */
  function focus(cy, id) {
    cy.elements(".faded, .near, .revealed, .focused").removeClass("faded near revealed focused");
    const chosen = id ? cy.getElementById(`node ${id}`) : cy.collection();
    if (chosen.empty()) return;
    chosen.addClass("focused");
    const ways = [chosen.incomers("edge"), chosen.outgoers("edge")].map(Graphs.ranked);
    /** @param {number} count */
    const strongest = (count) => cy.collection(ways.flatMap((edges) => edges.slice(0, count)));
    strongest(NAMED).connectedNodes().union(chosen).addClass("near");
    const edges = chosen.connectedEdges().not(".off").union(strongest(REVEALED).addClass("revealed"));
    edges.connectedNodes(".away").addClass("revealed");
    const near = edges.union(edges.connectedNodes()).union(chosen);
    cy.elements().difference(near).not(".band, .off, .away").addClass("faded");
  }

  return { apply, /** Forgets what was asked, as other elements are there. */ reset: () => { wanted = null; } };
})();
