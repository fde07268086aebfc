// @ts-check
/* Which nodes are on show, laid out as if there were no others: what a circuit opens on, or so many of the strongest.
 *
 * The server makes a layout for some numbers of nodes (`opening.py`); between two of them the larger one serves.
 */
const Layouts = (() => {
  /** Shows the nodes that are wanted, in their layout; the edges between them are off until the threshold is applied.
   * @param {Pane} pane @param {Marked} view @returns {boolean} whether anything changed
   */
  function arrange(pane, view) {
    const { layout, shown } = chosen(pane, view);
    const key = `${pane.layouts.indexOf(layout)} ${shown.length}`;
    if (key === pane.key) return false;
    const moves = pane.key === "" || pane.axes !== layout;
    pane.key = key;
    pane.shown = shown;
    const there = new Set(shown.map((node) => node.id()));
    for (const node of pane.nodes) node.toggleClass("away", !there.has(node.id()));
    for (const node of pane.cy.nodes(".logit").toArray()) there.add(node.id());
    for (const edge of pane.between.slice(0, pane.shownEdges)) edge.addClass("off");
    pane.between = pane.edges.filter((_edge, at) => pane.ends[at].every((end) => there.has(end)));
    pane.shownEdges = 0;
    if (moves) move(pane, layout);
    return true;
  }

  /** What is to be shown: also a node or edge in focus that is not among the strongest.
   * @param {Pane} pane @param {Marked} view
   */
  function chosen({ cy, nodes, layouts }, { nodes: wanted, focus, edge }) {
    const opening = wanted === null ? layouts.find(({ what }) => what) : undefined;
    const ids = [focus, ...(edge || [])].filter((id) => id !== null && !opening?.ids.includes(id));
    const least = Math.max(0, ...ids.map((id) => (cy.getElementById(`node ${id}`).data("rank") ?? -1) + 1));
    if (opening && !least) {
      const first = new Set(opening.ids);
      return { layout: opening, shown: nodes.filter((node) => first.has(node.data("node"))) };
    }
    const count = Math.min(Math.max(opening ? 0 : wanted ?? Infinity, least), nodes.length);
    const layout = layouts.find((one) => !one.what && one.count >= count) || layouts[layouts.length - 1];
    return { layout, shown: nodes.slice(0, count) };
  }

  /** Puts the nodes in the places of a layout. @param {Pane} pane @param {Layout} layout */
  function move(pane, layout) {
    pane.axes = layout;
    for (const node of pane.cy.nodes("[node]").toArray()) {
      const place = layout.places[node.data("node")];
      if (!place) continue; // it is away, or of the other circuit
      const [x, y, room, high] = place;
      node.data({ x, y, room, high });
      if (node.hasClass("chip")) continue;
      node.toggleClass("roomy", layout.roomy);
      node.toggleClass("crowded", !layout.roomy);
    }
    pane.cy.nodes(".band").toArray().forEach((band, number) => {
      const row = layout.rows[number];
      band.toggleClass("away", !row);
      if (row) band.data({ y: row.y, high: row.high });
    });
    Graphs.label(pane.name);
    Graphs.settle(pane.name);
  }

  /** What the circuit opens on; "" where that is all of it. @returns {string} */
  const opens = () => Graphs.all()[0]?.layouts.find(({ what }) => what)?.what || "";

  return { arrange, opens };
})();
