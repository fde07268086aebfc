// @ts-check
/* Names at the nodes on show, with what features stand for: inside large nodes, above or below small ones. No two
 * overlap; the strongest node comes first, and who zooms in makes room for more.
 */
const Naming = (() => {
  const LARGE = 12, SMALL = 11; // px of a letter, as theme.py has it
  const LINE = 13; // px of a line
  const HALO = 2; // px of the ground's colour about a name
  const GAP = 16; // px between names
  const SHORTEST = 56, LONGEST = 240; // px of a meaning
  const MANY = 60, NEAR = 1.5; // more nodes than so many say what they stand for to who is so near
  const ROUND = 0.78; // of a round node's width, what two lines in it have
  const LETTER = 7; // px that a letter is wide, about, where that can't be measured

  const pen = document.createElement("canvas").getContext("2d");
  if (pen) pen.font = `${LARGE}px system-ui, sans-serif`;

  /** @typedef {{ left: number, right: number, top: number, bottom: number }} Box */

  /** @param {string} text @param {number} size */
  const measure = (text, size) => ((pen ? pen.measureText(text).width : LETTER * text.length) * size) / LARGE;

  /** A text as far as it has room. @param {string} text @param {number} room @param {number} size */
  function cut(text, room, size) {
    if (measure(text, size) <= room) return text;
    const letters = [...text];
    while (letters.length > 1 && measure(`${letters.join("")}…`, size) > room) letters.pop();
    return `${letters.join("").trimEnd()}…`;
  }

  /** What a node is called, and what it stands for: the reader's own label says both.
   * @param {cytoscape.NodeSingular} node @returns {[string, string]}
   */
  const texts = (node) => [String(node.data("name") ?? node.data("label")), node.data("name") ? "" : node.data("meaning") || ""];

  /** Names the nodes on show. @param {Pane} pane @param {number} [zoom] as far as the reader has it */
  function name(pane, zoom = Math.max(1, pane.cy.zoom())) {
    const inner = pane.shown.filter((node) => !node.hasClass("chip"));
    pane.cy.batch(() => {
      if (!pane.axes.roomy) beside(inner, pane, zoom);
      else for (const node of inner) inside(node, pane);
    });
  }

  /** A large node is as wide as its name needs and its room allows. @param {cytoscape.NodeSingular} node @param {Pane} pane */
  function inside(node, pane) {
    const most = node.data("room") * pane.width - GAP / 2, least = 34 + 22 * node.data("size");
    const [title, meaning] = texts(node);
    const lines = meaning && most * ROUND >= SHORTEST ? [title, meaning] : [title];
    const wide = Math.min(Math.max(...lines.map((line) => measure(line, LARGE))), LONGEST);
    const w = Math.max(least, Math.min(most, wide / ROUND + GAP / 2));
    const room = lines.length > 1 || w > least ? (w - GAP / 4) * ROUND : w;
    node.data({ w, told: lines.map((line) => cut(line, room, LARGE)).join("\n") });
  }

  /** First all have their names that can, then their meanings. @param {cytoscape.NodeSingular[]} nodes strongest first
   * @param {Pane} pane @param {number} zoom
   */
  function beside(nodes, pane, zoom) {
    const edge = { left: zoom * (pane.axis - 16), right: zoom * (pane.axis + pane.width + Graphs.EDGE) };
    const taken = [...nodes, ...pane.cy.nodes(".chip").toArray().filter((chip) => !chip.hasClass("away"))].map((node) => around(node, zoom));
    const far = nodes.length > MANY && zoom < NEAR;
    /** @type {{ node: cytoscape.NodeSingular, below: boolean, box: Box, title: string, meaning: string }[]} */
    const placed = [];
    for (const node of nodes) {
      const [whole, meaning] = texts(node);
      const title = cut(whole, LONGEST, SMALL), wide = measure(title, SMALL);
      const ways = [false, true].map((below) => ({ below, ...free(node, zoom, below, 1, taken, edge) }));
      const best = ways[1].room > ways[0].room + 1 ? ways[1] : ways[0];
      const fits = best.room >= wide;
      node.data({ told: title, font: SMALL / zoom, halo: HALO / zoom, away: (best.below ? 1 + HALO : -HALO) / zoom });
      node.toggleClass("named", fits);
      node.toggleClass("below", fits && best.below);
      if (!fits) continue;
      const box = spread(best.box, wide);
      taken.push(box);
      if (meaning && !far) placed.push({ node, below: best.below, box, title, meaning });
    }
    for (const { node, below, box, title, meaning } of placed) {
      taken.splice(taken.indexOf(box), 1);
      const { room, box: both } = free(node, zoom, below, 2, taken, edge);
      const told = cut(meaning, Math.min(room, LONGEST), SMALL), wide = Math.max(measure(told, SMALL), measure(title, SMALL));
      const fits = room >= Math.min(SHORTEST, measure(meaning, SMALL)) && wide <= room;
      taken.push(fits ? spread(both, wide) : box);
      if (fits) node.data("told", `${title}\n${told}`);
    }
  }

  /** What a node takes itself. @param {cytoscape.NodeSingular} node @param {number} zoom @returns {Box} */
  function around(node, zoom) {
    const { x, y } = node.position(), small = 8 + 14 * node.data("size"); // as theme.py has it
    const [w, h] = node.hasClass("chip") ? [node.data("w"), node.data("h")] : [small, small];
    return { left: zoom * (x - w / 2), right: zoom * (x + w / 2), top: zoom * (y - h / 2), bottom: zoom * (y + h / 2) };
  }

  /** The room across for so many lines above or below a node, where they stand about its middle.
   * @param {cytoscape.NodeSingular} node @param {number} zoom @param {boolean} below @param {number} lines
   * @param {Box[]} taken @param {{ left: number, right: number }} edge @returns {{ room: number, box: Box }}
   */
  function free(node, zoom, below, lines, taken, edge) {
    const self = around(node, zoom), middle = (self.left + self.right) / 2, high = lines * LINE + 4;
    const top = below ? self.bottom + 1 : self.top - 1 - high, bottom = top + high;
    let half = Math.min(middle - edge.left, edge.right - middle);
    for (const box of taken) {
      if (box.bottom <= top || box.top >= bottom) continue;
      half = Math.min(half, box.left > middle ? box.left - middle : box.right < middle ? middle - box.right : 0);
    }
    return { room: 2 * half - GAP, box: { left: middle, right: middle, top, bottom } };
  }

  /** @param {Box} box of no width @param {number} wide @returns {Box} */
  const spread = (box, wide) => ({ ...box, left: box.left - wide / 2, right: box.right + wide / 2 });

  return { name };
})();
