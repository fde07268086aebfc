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
        const arranged = Layouts.arrange(pane, view);
        threshold(pane, view);
        const renamed = !before || changed(before, view);
        if (renamed) mark(pane.cy, view);
        if (renamed || arranged) Naming.name(pane);
        // The slider moves the edges that a focus shows.
        if (!before || stands(before) || stands(view)) focus(pane.cy, view);
      });
    }
  }

  /** @param {Marked} before @param {Marked} view */
  function changed(before, view) {
    /** @param {Marked} of */
    const marks = ({ pins, labels, settings }) => JSON.stringify([[...pins], labels, [...settings]]);
    return marks(before) !== marks(view);
  }

  /** Whether something stands out. @param {Marked} view */
  const stands = ({ focus, edge, position }) => focus !== null || edge !== null || position !== null;

  /** Touches only the edges between the old threshold and the new. @param {Pane} pane @param {Marked} view */
  function threshold(pane, view) {
    const { between, shownEdges } = pane;
    const now = Math.min(view.edges, between.length);
    for (let i = Math.min(now, shownEdges); i < Math.max(now, shownEdges); i++) between[i].toggleClass("off", i >= now);
    pane.shownEdges = now;
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
      if (Object.hasOwn(labels, key)) node.data({ name: Widgets.plain(labels[key]) });
    });
  }

  /** A focused node keeps its neighbours on show along the edges on show and its strongest, an edge its ends, a position
   * its nodes; the rest fades.
   * @param {cytoscape.Core} cy @param {Marked} view
   */
  function focus(cy, { focus: id, edge, position }) {
    cy.elements(".faded, .near, .revealed, .focused").removeClass("faded near revealed focused");
    if (edge) {
      const [from, to] = edge.map((end) => cy.getElementById(`node ${end}`));
      const chosen = from.edgesTo(to).addClass("focused revealed");
      fade(cy, chosen.union(chosen.connectedNodes().addClass("near")));
      return;
    }
    if (position !== null) {
      const here = cy.nodes("[node]").not(".logit, .away").filter((node) => node.data("pos") === position);
      const edges = here.connectedEdges().not(".off");
      fade(cy, edges.union(edges.connectedNodes()).union(here));
      return;
    }
    const chosen = id ? cy.getElementById(`node ${id}`) : cy.collection();
    if (chosen.empty()) return;
    chosen.addClass("focused");
    const there = chosen.neighborhood("node").not(".away");
    const ways = [there.edgesTo(chosen), chosen.edgesTo(there)].map(Graphs.ranked);
    /** @param {number} count */
    const strongest = (count) => cy.collection(ways.flatMap((edges) => edges.slice(0, count)));
    strongest(NAMED).connectedNodes().union(chosen).addClass("near");
    const edges = chosen.connectedEdges().not(".off").union(strongest(REVEALED).addClass("revealed"));
    fade(cy, edges.union(edges.connectedNodes()).union(chosen));
  }

  /** @param {cytoscape.Core} cy @param {cytoscape.CollectionReturnValue} near */
  function fade(cy, near) {
    if (near.nonempty()) cy.elements().difference(near).not(".band, .off, .away").addClass("faded");
  }

  return { apply, /** Forgets what was asked, as other elements are there. */ reset: () => { wanted = null; } };
})();
