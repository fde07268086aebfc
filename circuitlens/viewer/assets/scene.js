// @ts-check
/* What is on show, as plain numbers and colours: what a picture is made of, without Cytoscape. */
const Scene = (() => {
  /** The graphs that are on show. */
  const read = () =>
    Graphs.all().filter(({ name, width }) => Widgets.element(`${name}-pane`).offsetWidth && width).map((pane) => {
      Naming.name(pane, 1); // a picture has the whole graph, however near the reader is
      const made = scene(pane);
      Naming.name(pane);
      return made;
    });

  /** @param {Pane} pane */
  function scene({ name, cy, axes, axis, foot, slant, width, height }) {
    const { EDGE } = Graphs;
    const nodes = cy.nodes().toArray().filter((node) => node.visible());
    return {
      title: Widgets.element(`${name}-title`).textContent || "",
      width: axis + width + EDGE,
      height: height + foot + 2 * EDGE,
      slant,
      rows: axes.rows.map(({ label, y, high }) => ({
        text: label, x: EDGE * 2, y: EDGE + y * height, room: axis - 2 * EDGE,
        size: Math.max(6, Math.min(11, height * high)),
      })),
      columns: axes.columns.map(({ label, x, width: share }) => ({
        text: label, x: axis + x * width, y: height + EDGE + (slant ? 8 : foot / 2), room: slant ? foot * 1.3 : share * width,
      })),
      bands: nodes.filter((node) => node.hasClass("band")).map(drawnNode),
      nodes: nodes.filter((node) => !node.hasClass("band")).map(drawnNode),
      edges: cy.edges().toArray().filter((edge) => edge.visible()).map(drawnEdge),
    };
  }

  /** @param {cytoscape.NodeSingular} node */
  function drawnNode(node) {
    /** @param {string} key @returns {string} */
    const style = (key) => node.style(key);
    return {
      ...node.position(), w: node.width(), h: node.height(), shape: style("shape"),
      fill: style("background-color"), stroke: style("border-color"), border: node.numericStyle("border-width"),
      dashed: style("border-style") === "dashed", opacity: node.effectiveOpacity(),
      text: style("label"), size: node.numericStyle("font-size"), colour: style("color"), weight: style("font-weight"),
      above: style("text-valign") === "top", below: style("text-valign") === "bottom", textOpacity: node.numericStyle("text-opacity"),
    };
  }

  /** @param {cytoscape.EdgeSingular} edge */
  function drawnEdge(edge) {
    return {
      points: [edge.sourceEndpoint(), ...(edge.controlPoints() || []), edge.targetEndpoint()],
      colour: edge.style("line-color"), dashed: edge.style("line-style") === "dashed",
      holds: edge.style("target-arrow-shape") === "tee", width: edge.numericStyle("width"), opacity: edge.effectiveOpacity(),
    };
  }

  return { read };
})();
