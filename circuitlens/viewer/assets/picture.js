/* Pictures of what is on show: the graph with its axes and the legend, as SVG, and as PNG made of that. */
(function () {
  "use strict";

  const page = (window.circuitlens = window.circuitlens || {});
  const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
  const HEAD = 34, LEGEND = 36, SCALE = 2, RASTER = 16384; // px; how much finer a PNG is; the largest side of a canvas

  /* Attributes are set one by one and text as text: a label can't become markup. */
  function svg(tag, attributes = {}, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const words = (text, x, y, more) => svg("text", { x, y, "font-family": FONT, "dominant-baseline": "central", ...more }, text);

  /* A text as it fits: letters are about 0.55 of their size wide. */
  const fitting = (text, room, size) => {
    const most = Math.max(1, Math.floor(room / (0.55 * size)));
    return text.length > most ? text.slice(0, Math.max(1, most - 1)) + "…" : text;
  };

  function outline({ x, y, w, h, shape }) {
    const corner = (points) => svg("polygon", { points: points.map(([a, b]) => `${x + (a * w) / 2},${y + (b * h) / 2}`).join(" ") });
    if (shape === "ellipse") return svg("ellipse", { cx: x, cy: y, rx: w / 2, ry: h / 2 });
    if (shape === "diamond") return corner([[0, -1], [1, 0], [0, 1], [-1, 0]]);
    if (shape === "hexagon") return corner([[-0.5, -1], [0.5, -1], [1, 0], [0.5, 1], [-0.5, 1], [-1, 0]]);
    return svg("rect", { x: x - w / 2, y: y - h / 2, width: w, height: h, rx: shape.startsWith("round") ? 5 : 0 });
  }

  function drawNode(node) {
    const group = svg("g", { opacity: node.opacity });
    const shape = outline(node);
    const dash = node["border-style"] === "dashed" ? { "stroke-dasharray": "4 3" } : {};
    for (const [name, value] of Object.entries({ fill: node["background-color"], stroke: node["border-color"], "stroke-width": node.border, ...dash })) shape.setAttribute(name, value);
    group.append(shape);
    if (node.text && node.textOpacity > 0) {
      const above = node["text-valign"] === "top";
      const room = above || node.shape === "ellipse" || node.shape === "hexagon" || node.shape === "diamond" ? 400 : node.w;
      group.append(words(fitting(node.text, room, node.size), node.x, above ? node.y - node.h / 2 - node.size * 0.7 : node.y,
        { "text-anchor": "middle", "font-size": node.size, fill: node.color, "font-weight": node["font-weight"] }));
    }
    return group;
  }

  function drawEdge({ points, width, opacity, ...style }) {
    const [start, ...rest] = points.map(({ x, y }) => [x, y]);
    const end = rest.at(-1);
    const way = rest.length === 2 ? `Q${rest[0]} ${end}` : `L${rest.join(" L")}`;
    const before = rest.length > 1 ? rest.at(-2) : start;
    const angle = Math.atan2(end[1] - before[1], end[0] - before[0]), size = 4 + 1.5 * width;
    const wing = (turn) => [end[0] - size * Math.cos(angle + turn), end[1] - size * Math.sin(angle + turn)];
    const group = svg("g", { opacity });
    const dash = style["line-style"] === "dashed" ? { "stroke-dasharray": "6 3" } : {};
    group.append(svg("path", { d: `M${start} ${way}`, fill: "none", stroke: style["line-color"], "stroke-width": width, ...dash }));
    group.append(svg("polygon", { points: [end, wing(0.45), wing(-0.45)].join(" "), fill: style["line-color"] }));
    return group;
  }

  function compose(title) {
    const scenes = page.graph.scene();
    const colour = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
    const ink = getComputedStyle(document.body).color, ground = getComputedStyle(document.body).backgroundColor;
    const width = Math.max(480, scenes.reduce((sum, scene) => sum + scene.width, 0));
    const height = HEAD + Math.max(...scenes.map((scene) => scene.height)) + LEGEND;
    const root = svg("svg", { xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}` });
    root.append(svg("title", {}, title), svg("rect", { width, height, fill: ground }));
    let left = 0;
    for (const scene of scenes) {
      root.append(words(scene.title || title, left + 16, HEAD / 2 + 4, { "font-size": 14, "font-weight": 600, fill: ink }));
      const group = svg("g", { transform: `translate(${left} ${HEAD})` });
      const bands = scene.nodes.filter((node) => node.shape === "rectangle"), others = scene.nodes.filter((node) => node.shape !== "rectangle");
      group.append(...bands.map(drawNode), ...scene.edges.map(drawEdge), ...others.map(drawNode));
      for (const { text, x, y, size, room } of scene.rows) group.append(words(fitting(text, room, size), x, y, { "font-size": size, fill: colour("--page-faint") }));
      for (const { text, x, y, room } of scene.columns) {
        group.append(words(fitting(text, room, 12), x, y, { "font-size": 12, "font-weight": 600, "text-anchor": "middle", fill: colour("--page-faint") }));
      }
      root.append(group);
      left += scene.width;
    }
    root.append(legend(16, height - LEGEND / 2, colour));
    return { text: new XMLSerializer().serializeToString(root), width, height };
  }

  function legend(x, y, colour) {
    const group = svg("g");
    const named = (mark, text) => {
      group.append(mark, words(text, x + 30, y, { "font-size": 12, fill: colour("--page-faint") }));
      x += 30 + 7 * text.length + 22;
    };
    for (const entry of document.querySelectorAll("#legend > span")) {
      const mark = entry.querySelector("i"), text = entry.textContent;
      const kind = ["input", "embedding", "neuron", "feature", "error", "logit"].find((one) => mark.classList.contains(one));
      const positive = mark.classList.contains("positive");
      if (!kind) {
        named(svg("line", { x1: x, x2: x + 24, y1: y, y2: y, "stroke-width": 3, stroke: colour(positive ? "--page-positive" : "--page-negative"),
          ...(positive ? {} : { "stroke-dasharray": "6 3" }) }), text);
        continue;
      }
      const shape = { neuron: "hexagon", feature: "ellipse", error: "diamond" }[kind] || "round-rectangle";
      const drawn = outline({ x: x + 12, y, w: shape === "round-rectangle" ? 22 : 14, h: 14, shape });
      drawn.setAttribute("fill", colour({ error: "--page-error", logit: "--page-logit", input: "--page-input", embedding: "--page-input" }[kind] || "--page-positive-fill"));
      drawn.setAttribute("stroke", colour("--page-faint"));
      named(drawn, text);
    }
    return group;
  }

  function hand(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  async function save(form, title) {
    const { text, width, height } = compose(title);
    const name = (title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "circuit").slice(0, 60);
    const blob = new Blob([text], { type: "image/svg+xml" });
    if (form === "svg") { hand(blob, `${name}.svg`); return; }
    const image = new Image();
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
    await image.decode();
    const scale = Math.min(SCALE, RASTER / width, RASTER / height);
    const canvas = Object.assign(document.createElement("canvas"), { width: Math.round(width * scale), height: Math.round(height * scale) });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((made) => hand(made, `${name}.png`), "image/png");
  }

  page.picture = { save, compose };
})();
