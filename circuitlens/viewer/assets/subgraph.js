// @ts-check
/* The subgraph of pinned nodes, at the side. */
const Subgraph = (() => {
  const LINE = 40, LEAST = 280; // px of a line of nodes, and of the whole at least

  /** The graph that is watched. @type {cytoscape.Core | null} */
  let watched = null;

  /** @param {any[]} elements */
  function draw(elements) {
    Graphs.whenDrawn("subgraph", elements, (cy) => {
      if (watched !== cy) watch(cy);
      const lines = new Set(elements.map(({ data }) => data.y)).size;
      Widgets.element("subgraph-pane").style.height = `${Math.max(LEAST, lines * LINE)}px`;
      place(cy);
      Graphs.container(cy).dataset.drawn = String(elements.length);
    });
  }

  /** @param {cytoscape.Core} cy */
  function watch(cy) {
    watched = cy;
    new ResizeObserver(() => place(cy)).observe(Graphs.container(cy));
    cy.on("tap", "node[node]", (event) => Actions.focus(event.target.data("node")));
  }

  /** @param {cytoscape.Core} cy */
  function place(cy) {
    const { clientWidth, clientHeight } = Graphs.container(cy);
    if (!clientWidth) return;
    cy.resize();
    cy.batch(() => {
      for (const node of cy.nodes().toArray()) {
        const { x, y } = node.data();
        node.position({ x: x * clientWidth, y: 16 + y * (clientHeight - 32) });
      }
    });
    cy.zoom(1);
    cy.pan({ x: 0, y: 0 });
  }

  return { draw };
})();
