/* Everything that touches the Cytoscape object is in this file.
 *
 * Elements carry their place as fractions of the pane (data x, y); `settle` turns them into pixels, on every new circuit and
 * whenever the pane changes its size. Thresholds and focus toggle classes and never ask the server.
 */
(function () {
  "use strict";

  const AXIS = [150, 220]; // px left of the columns, for the rows' names: at least and at most
  const FOOT = 30; // px below the bands, for the tokens
  const EDGE = 12; // px around everything
  const CHIP = [84, 30]; // px of a chip that has the room
  const REVEALED = 10; // edges of a selected node, each way, that are on show whatever the threshold
  const NAMED = 4; // of these, edges whose other ends are named where names are hidden
  let shown = Infinity;
  let watched = null;

  function graph() {
    const pane = document.getElementById("graph");
    return pane && pane._cyreg ? pane._cyreg.cy : null;
  }

  /* Calls `then(cy)` once Cytoscape holds the elements that were sent to it. */
  function whenDrawn(expected, then, tries = 600) {
    const cy = graph();
    const drawn = cy && cy.elements().length === expected.length &&
      expected.every((element) => cy.getElementById(element.data.id).nonempty());
    if (drawn) then(cy);
    else if (tries > 0) requestAnimationFrame(() => whenDrawn(expected, then, tries - 1));
  }

  function settle(cy) {
    const pane = cy.container();
    cy.resize();
    const height = Math.max(pane.clientHeight - FOOT - 2 * EDGE, 200);
    const names = cy.nodes(".row");
    names.forEach((node) => { node.data({ font: Math.min(11, height * node.data("high")), text: AXIS[1] - 3 * EDGE }); });
    const widest = Math.max(0, ...names.map((node) => node.boundingBox().w));
    const axis = Math.min(Math.max(AXIS[0], widest + 3 * EDGE), AXIS[1]);
    const width = Math.max(pane.clientWidth - axis - EDGE, 200);
    cy.batch(() => {
      cy.nodes().forEach((node) => {
        const { x, y, high, room } = node.data();
        if (node.hasClass("band")) {
          node.data({ w: pane.clientWidth - 2 * EDGE, h: height * high - 6 });
          node.position({ x: pane.clientWidth / 2, y: EDGE + y * height });
        } else if (node.hasClass("row")) {
          node.position({ x: 2 * EDGE, y: EDGE + y * height });
        } else if (node.hasClass("column")) {
          node.data({ text: room * width - 6 });
          node.position({ x: axis + x * width, y: EDGE + height + FOOT / 2 });
        } else {
          if (node.hasClass("chip")) {
            const w = Math.max(Math.min(CHIP[0], room * width - 6), 6);
            const h = Math.min(CHIP[1], height * high);
            node.data({ w, h, text: w - 6, font: Math.min(12, h) });
          }
          node.position({ x: axis + x * width, y: EDGE + y * height });
        }
      });
    });
    cy.zoom(1);
    cy.pan({ x: 0, y: 0 });
  }

  function threshold(cy) {
    cy.batch(() => {
      cy.edges().forEach((edge) => {
        const off = edge.data("rank") >= shown;
        if (off !== edge.hasClass("off")) edge.toggleClass("off", off);
      });
    });
    focus(cy);
  }

  /* A selected node keeps its neighbours along the edges on show and its strongest; the rest fades. */
  function focus(cy) {
    const chosen = cy.nodes(":selected");
    cy.batch(() => {
      cy.elements(".faded, .near, .revealed").removeClass("faded near revealed");
      if (chosen.empty()) return;
      const strongest = (count) => [chosen.incomers("edge"), chosen.outgoers("edge")]
        .map((edges) => edges.sort((a, b) => a.data("rank") - b.data("rank")).slice(0, count))
        .reduce((all, edges) => all.union(edges));
      strongest(NAMED).connectedNodes().union(chosen).addClass("near");
      const edges = chosen.connectedEdges().not(".off").union(strongest(REVEALED).addClass("revealed"));
      const near = edges.union(edges.connectedNodes()).union(chosen);
      cy.elements().difference(near).not(".band, .axis, .off").addClass("faded");
    });
  }

  function grouped(number) {
    return String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  }

  function watch(cy) {
    if (watched === cy) return;
    watched = cy;
    cy.on("select unselect", "node", () => focus(cy));
    cy.on("mouseover", "node", (event) => { cy.container().style.cursor = "pointer"; event.target.addClass("hovered"); });
    cy.on("mouseout", "node", (event) => { cy.container().style.cursor = ""; event.target.removeClass("hovered"); });
    new ResizeObserver(() => settle(cy)).observe(cy.container());
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    circuitlens: {
      drawn: function (elements) {
        whenDrawn(elements, (cy) => {
          watch(cy);
          cy.elements().unselect();
          settle(cy);
          threshold(cy);
          document.getElementById("graph").dataset.drawn = elements.length;
        });
        return window.dash_clientside.no_update;
      },
      threshold: function (stop, stops) {
        shown = stops[stop];
        const cy = graph();
        if (cy) threshold(cy);
        return `${grouped(shown)} of ${grouped(stops.at(-1))} edges`;
      },
      /* The page's scheme is an attribute that Mantine sets; the canvas can't read CSS, so it gets its own sheet. */
      stylesheet: function (sheets) {
        const root = document.documentElement;
        const current = () => sheets[root.dataset.mantineColorScheme === "dark" ? "dark" : "light"];
        new MutationObserver(() => window.dash_clientside.set_props("graph", { stylesheet: current() }))
          .observe(root, { attributeFilter: ["data-mantine-color-scheme"] });
        return current();
      },
    },
  });
})();
