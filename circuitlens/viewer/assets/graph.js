/* Everything that touches a Cytoscape object is in this file.
 *
 * Elements carry their place as fractions of the pane (data x, y); `settle` turns them into pixels, on every new circuit and
 * whenever the pane changes its size. Sliders, focus, pins and names toggle classes and never ask the server. The axes are
 * HTML beside the canvas, which follow its pan and zoom.
 */
(function () {
  "use strict";

  const page = (window.circuitlens = window.circuitlens || {});
  const AXIS = [64, 200]; // px left of the columns, for the rows' names: at least and at most
  const FOOT = 30; // px below the bands, for the tokens
  const EDGE = 12; // px around everything
  const CHIP = [84, 30]; // px of a chip that has the room
  const REVEALED = 10; // edges of a focused node, each way, that are on show whatever the threshold
  const NAMED = 4; // of these, edges whose other ends are named where names are hidden
  const PANES = ["graph", "graph2"];
  const panes = {}; // what is known of each graph that is drawn
  let wanted = null; // what the page's state asks of them
  let drawings = 0;

  const core = (name) => {
    const pane = document.getElementById(name);
    return pane && pane._cyreg ? pane._cyreg.cy : null;
  };

  /* Calls `then(cy)` once Cytoscape holds the elements that were sent to it. */
  function whenDrawn(name, expected, then, tries = 1200) {
    const cy = core(name);
    const drawn = cy && cy.elements().length === expected.length &&
      expected.every((element) => cy.getElementById(element.data.id).nonempty());
    if (drawn) then(cy);
    else if (tries > 0) requestAnimationFrame(() => whenDrawn(name, expected, then, tries - 1));
  }

  function draw(elements, axes, titles, then) {
    const turn = ++drawings;
    let missing = PANES.length;
    PANES.forEach((name, number) => {
      const title = document.getElementById(`${name}-title`);
      title.textContent = titles[number];
      title.hidden = !titles[number];
      whenDrawn(name, elements[number], (cy) => {
        if (turn !== drawings) return; // another circuit was chosen meanwhile
        take(name, cy, axes);
        if (--missing === 0) {
          wanted = null;
          then();
          document.getElementById(name).dataset.drawn = turn;
          document.getElementById("graph").dataset.drawn = elements[0].length;
        }
      });
    });
  }

  /* Reads what a graph holds, once: its nodes and edges by rank, and the share that the strongest have of the whole. */
  function take(name, cy, axes) {
    const ranked = (elements) => elements.toArray().sort((a, b) => a.data("rank") - b.data("rank"));
    const inner = cy.nodes("[rank >= 0]");
    const sums = (elements, size) => {
      let sum = 0;
      const upTo = [0, ...elements.map((element) => (sum += element.data(size) ** 2))];
      return (count) => (sum ? upTo[Math.min(count, elements.length)] / sum : 1);
    };
    const nodes = ranked(inner), edges = ranked(cy.edges());
    const fresh = !panes[name] || panes[name].cy !== cy;
    panes[name] = { cy, axes, nodes, edges, shownNodes: nodes.length, shownEdges: 0, nodeShare: sums(nodes, "size"), edgeShare: sums(edges, "strength") };
    cy.edges().addClass("off");
    label(name);
    if (fresh) watch(name, cy);
    settle(name);
  }

  function label(name) {
    const box = document.getElementById(`${name}-pane`);
    const { axes } = panes[name];
    const made = (entries, what) => entries.map((entry) => {
      const span = document.createElement("span");
      span.textContent = span.title = entry.label;
      return span;
    });
    box.querySelector(".rows").replaceChildren(...made(axes.rows));
    box.querySelector(".columns").replaceChildren(...made(axes.columns));
  }

  function settle(name) {
    const pane = panes[name];
    const { cy, axes } = pane;
    const box = cy.container();
    if (!box.clientWidth || !box.clientHeight) return; // out of sight; done when it comes into sight
    cy.resize();
    const height = Math.max(box.clientHeight - FOOT - 2 * EDGE, 160);
    const names = [...document.getElementById(`${name}-pane`).querySelectorAll(".rows span")];
    names.forEach((span) => { span.style.maxWidth = ""; });
    const widest = Math.max(0, ...names.map((span) => span.scrollWidth));
    const most = Math.min(AXIS[1], box.clientWidth / 4);
    const axis = Math.min(Math.max(AXIS[0], widest + 3 * EDGE), most);
    names.forEach((span) => { span.style.maxWidth = `${axis - 2 * EDGE}px`; });
    const width = Math.max(box.clientWidth - axis - EDGE, 160);
    Object.assign(pane, { axis, width, height });
    cy.batch(() => {
      cy.nodes().forEach((node) => {
        const { x, y, high, room } = node.data();
        if (node.hasClass("band")) {
          node.data({ w: box.clientWidth - 2 * EDGE, h: height * high - 6 });
          node.position({ x: box.clientWidth / 2, y: EDGE + y * height });
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
    follow(name);
  }

  /* Puts the axes where the graph is now. */
  function follow(name) {
    const { cy, axes, axis, width, height } = panes[name];
    const zoom = cy.zoom(), pan = cy.pan();
    const box = document.getElementById(`${name}-pane`);
    const rows = box.querySelectorAll(".rows span"), columns = box.querySelectorAll(".columns span");
    axes.rows.forEach((row, number) => {
      const at = pan.y + zoom * (EDGE + row.y * height);
      rows[number].style.top = `${at}px`;
      rows[number].style.fontSize = `${Math.max(6, Math.min(11, zoom * height * row.high))}px`;
      rows[number].hidden = at < 0 || at > cy.height() - FOOT;
    });
    axes.columns.forEach((column, number) => {
      const at = pan.x + zoom * (axis + column.x * width);
      columns[number].style.left = `${at}px`;
      columns[number].style.maxWidth = `${zoom * column.width * width - 4}px`;
      columns[number].hidden = at < axis / 2 || at > cy.width();
    });
  }

  // What the state asks

  function apply(view) {
    const before = wanted;
    wanted = view;
    for (const name of PANES) {
      const pane = panes[name];
      if (!pane) continue;
      pane.cy.batch(() => {
        threshold(pane);
        if (!before || changed(before, view, "pins", "labels", "settings")) mark(pane);
        // The slider moves the edges that a focus shows.
        if (view.focus || !before || before.focus) focus(pane);
      });
    }
  }

  function changed(before, view, ...keys) {
    const plain = (value) => JSON.stringify(value instanceof Set ? [...value] : value);
    return keys.some((key) => plain(before[key]) !== plain(view[key]));
  }

  /* Touches only the edges and nodes between the old threshold and the new. */
  function threshold(pane) {
    for (const [list, shown, count, hidden] of [
      [pane.edges, "shownEdges", wanted.edges, "off"], [pane.nodes, "shownNodes", wanted.nodes, "away"],
    ]) {
      const now = Math.min(count, list.length);
      for (let i = Math.min(now, pane[shown]); i < Math.max(now, pane[shown]); i++) list[i].toggleClass(hidden, i >= now);
      pane[shown] = now;
    }
  }

  function mark(pane) {
    pane.cy.nodes(".pinned, .intervened").removeClass("pinned intervened");
    pane.cy.nodes("[name]").removeData("name");
    const at = (id) => pane.cy.getElementById(`node ${id}`);
    wanted.pins.forEach((id) => at(id).addClass("pinned"));
    Object.keys(wanted.settings).forEach((id) => at(id).addClass("intervened"));
    Object.entries(wanted.labels).forEach(([id, name]) => at(id).data({ name }));
  }

  /* A focused node keeps its neighbours along the edges on show and its strongest; the rest fades. */
  function focus({ cy }) {
    cy.elements(".faded, .near, .revealed, .focused").removeClass("faded near revealed focused");
    const chosen = wanted.focus ? cy.getElementById(`node ${wanted.focus}`) : cy.collection();
    if (chosen.empty()) return;
    chosen.addClass("focused");
    const strongest = (count) => [chosen.incomers("edge"), chosen.outgoers("edge")]
      .map((edges) => edges.sort((a, b) => a.data("rank") - b.data("rank")).slice(0, count))
      .reduce((all, edges) => all.union(edges));
    strongest(NAMED).connectedNodes().union(chosen).addClass("near");
    const edges = chosen.connectedEdges().not(".off").union(strongest(REVEALED).addClass("revealed"));
    edges.connectedNodes(".away").addClass("revealed");
    const near = edges.union(edges.connectedNodes()).union(chosen);
    cy.elements().difference(near).not(".band, .off, .away").addClass("faded");
  }

  // What readers do

  function watch(name, cy) {
    const tip = document.getElementById("tip") || document.body.appendChild(Object.assign(document.createElement("div"), { id: "tip", hidden: true }));
    cy.on("tap", "node", (event) => {
      const id = event.target.data("node");
      if (!id) return;
      const keys = event.originalEvent || {};
      if (keys.ctrlKey || keys.metaKey) page.state.pin(id); else page.state.focus(id);
    });
    cy.on("tap", (event) => { if (event.target === cy) page.state.focus(null); });
    cy.on("mouseover", "node[title]", (event) => {
      const box = cy.container().getBoundingClientRect(), at = event.target.renderedPosition();
      cy.container().style.cursor = "pointer";
      event.target.addClass("hovered");
      tip.textContent = event.target.data("title");
      tip.hidden = false;
      const left = Math.min(box.x + at.x + 16, innerWidth - tip.offsetWidth - 8);
      Object.assign(tip.style, { left: `${left}px`, top: `${Math.max(box.y + at.y - 40, 4)}px` });
    });
    cy.on("mouseout", "node", (event) => {
      cy.container().style.cursor = "";
      event.target.removeClass("hovered");
      tip.hidden = true;
    });
    cy.on("pan zoom", () => { if (panes[name].width) follow(name); });
    new ResizeObserver(() => settle(name)).observe(cy.container());
  }

  /* The node to go to from another: along its strongest edge up or down, or beside it in its row. */
  function neighbour(id, direction) {
    const { cy, nodes, axes } = panes.graph;
    const from = cy.getElementById(`node ${id}`);
    if (!id || from.empty()) return nodes.length ? nodes[0].data("node") : null;
    if (direction === "up" || direction === "down") {
      const edges = direction === "up" ? from.outgoers("edge") : from.incomers("edge");
      const strongest = edges.sort((a, b) => a.data("rank") - b.data("rank"))[0];
      return strongest ? (direction === "up" ? strongest.target() : strongest.source()).data("node") : null;
    }
    const row = (node) => axes.rows.findIndex(({ y, high }) => Math.abs(node.data("y") - y) <= high / 2);
    const beside = cy.nodes("[node]").not(".away").filter((node) => row(node) === row(from))
      .sort((a, b) => a.data("x") - b.data("x") || a.data("y") - b.data("y"));
    const at = beside.toArray().findIndex((node) => node.same(from)) + (direction === "right" ? 1 : -1);
    return at >= 0 && at < beside.length ? beside[at].data("node") : null;
  }

  // The subgraph of pinned nodes

  function drawSubgraph(elements) {
    whenDrawn("subgraph", elements, (cy) => {
      const place = () => {
        const box = cy.container();
        if (!box.clientWidth) return;
        cy.resize();
        cy.batch(() => cy.nodes().forEach((node) => {
          node.position({ x: 40 + node.data("x") * (box.clientWidth - 80), y: 16 + node.data("y") * (box.clientHeight - 32) });
        }));
        cy.zoom(1);
        cy.pan({ x: 0, y: 0 });
      };
      if (!cy.scratch("watched")) {
        cy.scratch("watched", true);
        new ResizeObserver(() => cy.scratch("place")()).observe(cy.container());
        cy.on("tap", "node[node]", (event) => page.state.focus(event.target.data("node")));
      }
      cy.scratch("place", place);
      place();
      document.getElementById("subgraph").dataset.drawn = elements.length;
    });
  }

  // For pictures

  /* What is on show, as plain numbers and colours: nothing else need know of Cytoscape. */
  function scene() {
    return PANES.filter((name) => panes[name] && document.getElementById(`${name}-pane`).offsetWidth && panes[name].width).map((name) => {
      const { cy, axes, axis, width, height } = panes[name];
      const style = (element, ...keys) => Object.fromEntries(keys.map((key) => [key, element.style(key)]));
      const nodes = cy.nodes().filter((node) => node.visible()).sort((a, b) => b.hasClass("band") - a.hasClass("band"));
      const edges = cy.edges().filter((edge) => edge.visible());
      return {
        title: document.getElementById(`${name}-title`).textContent,
        width: axis + width + EDGE, height: height + FOOT + 2 * EDGE,
        rows: axes.rows.map((row) => ({ text: row.label, x: EDGE * 2, y: EDGE + row.y * height, size: Math.max(6, Math.min(11, height * row.high)), room: axis - 2 * EDGE })),
        columns: axes.columns.map((column) => ({ text: column.label, x: axis + column.x * width, y: height + EDGE + FOOT / 2, room: column.width * width })),
        nodes: nodes.map((node) => ({
          ...node.position(), w: node.width(), h: node.height(), text: node.style("label"),
          ...style(node, "shape", "background-color", "border-color", "border-style", "color", "font-weight", "text-valign"),
          border: node.numericStyle("border-width"), size: node.numericStyle("font-size"),
          opacity: node.effectiveOpacity(), textOpacity: node.numericStyle("text-opacity"),
        })),
        edges: edges.map((edge) => ({
          points: [edge.sourceEndpoint(), ...(edge.controlPoints() || []), edge.targetEndpoint()],
          ...style(edge, "line-color", "line-style"), width: edge.numericStyle("width"), opacity: edge.effectiveOpacity(),
        })),
      };
    });
  }

  const any = (id) => PANES.map((name) => panes[name] && panes[name].cy.getElementById(`node ${id}`)).find((node) => node && node.nonempty());

  page.graph = {
    draw, drawSubgraph, apply, neighbour, scene,
    fit: () => PANES.forEach((name) => { if (panes[name]) settle(name); }),
    label: (id) => { const node = any(id); return node && node.data("label"); },
    kind: (id) => { const node = any(id); return node && (node.hasClass("logit") ? "logit" : "node"); },
    /* How many nodes and edges there are, and what share of the whole the strongest have; of the fuller of two graphs. */
    totals() {
      const fuller = (list) => PANES.map((name) => panes[name]).filter(Boolean).sort((a, b) => b[list].length - a[list].length)[0];
      const of = (list, share) => { const pane = fuller(list); return { count: pane ? pane[list].length : 0, share: pane ? pane[share] : () => 1 }; };
      return { nodes: of("nodes", "nodeShare"), edges: of("edges", "edgeShare") };
    },
  };
})();
