// @ts-check
/* Pictures of what is on show: the graph with its axes and the legend, as SVG, and as PNG made of that. */
const Picture = (() => {
  const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
  const HEAD = 34, TITLE = 14, LINE = 19, LEGEND = 36, SCALE = 2, RASTER = 16384; // px; how much finer a PNG is; the largest side of a canvas
  /** @type {Record<string, string>} */
  const SHAPES = {
    input: "round", embedding: "round", neuron: "hexagon", feature: "ellipse", error: "diamond", logit: "round",
  };
  /** @type {Record<string, string>} */
  const FILLS = { error: "error", logit: "logit", input: "input", embedding: "input" };

  /** Attributes are set one by one and text as text: a label can't become markup.
   * @param {string} tag @param {Record<string, any>} attributes @param {string} [text]
   */
  function svg(tag, attributes = {}, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /** @param {string} text @param {number} x @param {number} y @param {Record<string, any>} more */
  function words(text, x, y, more) {
    return svg("text", { x, y, "font-family": FONT, "dominant-baseline": "central", ...more }, text);
  }

  /** A text as it fits: letters are about 0.55 of their size wide.
   * @param {string} text @param {number} room @param {number} size
   */
  function fitting(text, room, size) {
    const most = Math.max(1, Math.floor(room / (0.55 * size)));
    return text.length > most ? `${text.slice(0, Math.max(1, most - 1))}…` : text;
  }

  /** A text in as many lines as it needs; a word that is longer than one is cut.
   * @param {string} text @param {number} room @param {number} size @returns {string[]}
   */
  function lines(text, room, size) {
    const most = Math.max(1, Math.floor(room / (0.64 * size))); // bold
    /** @type {string[]} */
    const made = [];
    for (const word of text.split(" ")) {
      const longer = `${made.at(-1) ?? ""} ${word}`;
      if (made.length && longer.length <= most) made[made.length - 1] = longer;
      else made.push(fitting(word, room, size));
    }
    return made;
  }

  /** A colour of the page. @param {string} name */
  const colour = (name) => getComputedStyle(document.body).getPropertyValue(`--page-${name}`).trim();

  /** @param {string} pattern @param {boolean} wanted */
  const dashes = (pattern, wanted) => (wanted ? { "stroke-dasharray": pattern } : {});

  /** @param {{ x: number, y: number, w: number, h: number, shape: string }} node @param {Record<string, any>} more */
  function outline({ x, y, w, h, shape }, more) {
    /** @param {number[][]} corners */
    const polygon = (corners) =>
      svg("polygon", { points: corners.map(([a, b]) => `${x + (a * w) / 2},${y + (b * h) / 2}`).join(" "), ...more });
    if (shape === "ellipse") return svg("ellipse", { cx: x, cy: y, rx: w / 2, ry: h / 2, ...more });
    if (shape === "diamond") return polygon([[0, -1], [1, 0], [0, 1], [-1, 0]]);
    if (shape === "hexagon") return polygon([[-0.5, -1], [0.5, -1], [1, 0], [0.5, 1], [-0.5, 1], [-1, 0]]);
    const rx = shape.startsWith("round") ? 5 : 0;
    return svg("rect", { x: x - w / 2, y: y - h / 2, width: w, height: h, rx, ...more });
  }

  /** @param {ReturnType<typeof Scene.read>[0]["nodes"][0]} node */
  function drawNode(node) {
    const group = svg("g", { opacity: node.opacity });
    const { fill, stroke, border, size } = node;
    group.append(outline(node, { fill, stroke, "stroke-width": border, ...dashes("4 3", node.dashed) }));
    if (node.text && node.textOpacity > 0) {
      const room = node.above || node.below || ["ellipse", "hexagon", "diamond"].includes(node.shape) ? 400 : node.w;
      const away = node.h / 2 + size * 0.7;
      const style = { "text-anchor": "middle", "font-size": size, fill: node.colour, "font-weight": node.weight };
      const written = node.text.split("\n"), more = (written.length - 1) * size;
      const y = node.above ? node.y - away - more : node.below ? node.y + away : node.y - more / 2;
      written.forEach((line, number) => { group.append(words(fitting(line, room, size), node.x, y + number * size, style)); });
    }
    return group;
  }

  /** @param {ReturnType<typeof Scene.read>[0]["edges"][0]} edge */
  function drawEdge({ points, width, opacity, colour, dashed, holds }) {
    const [start, ...rest] = points.map(({ x, y }) => [x, y]);
    const end = rest[rest.length - 1];
    const way = rest.length === 2 ? `Q${rest[0]} ${end}` : `L${rest.join(" L")}`;
    const before = rest.length > 1 ? rest[rest.length - 2] : start;
    const angle = Math.atan2(end[1] - before[1], end[0] - before[0]), size = 4 + 1.5 * width;
    /** @param {number} turn */
    const wing = (turn) => [end[0] - size * Math.cos(angle + turn), end[1] - size * Math.sin(angle + turn)];
    const group = svg("g", { opacity });
    const line = { d: `M${start} ${way}`, fill: "none", stroke: colour, "stroke-width": width };
    group.append(svg("path", { ...line, ...dashes("6 3", dashed) }));
    /** @param {number} side */
    const bar = (side) => [end[0] - side * size * 0.8 * Math.sin(angle), end[1] + side * size * 0.8 * Math.cos(angle)];
    const head = holds
      ? svg("polyline", { points: `${bar(1)} ${bar(-1)}`, stroke: colour, "stroke-width": Math.max(2, width / 2) })
      : svg("polygon", { points: [end, wing(0.45), wing(-0.45)].join(" "), fill: colour });
    group.append(head);
    return group;
  }

  /** @param {ReturnType<typeof Scene.read>[0]} scene @param {number} left @param {number} top */
  function drawScene(scene, left, top) {
    const group = svg("g", { transform: `translate(${left} ${top})` });
    group.append(...scene.bands.map(drawNode), ...scene.edges.map(drawEdge), ...scene.nodes.map(drawNode));
    const fill = colour("faint");
    for (const { text, x, y, size, room } of scene.rows) {
      group.append(words(fitting(text, room, size), x, y, { "font-size": size, fill }));
    }
    for (const { text, x, y, room } of scene.columns) {
      const turned = scene.slant ? { transform: `rotate(${-scene.slant} ${x} ${y})`, "text-anchor": "end" } : {};
      const style = { "font-size": 12, "font-weight": 600, "text-anchor": "middle", fill, ...turned };
      group.append(words(fitting(text, room, 12), x, y, style));
    }
    return group;
  }

  /** @param {string} title */
  function compose(title) {
    const scenes = Scene.read();
    const width = Math.max(480, scenes.reduce((sum, scene) => sum + scene.width, 0));
    const signs = legend(width);
    const titles = scenes.map((scene) => lines(scene.title || title, (scenes.length > 1 ? scene.width : width) - 32, TITLE));
    const head = HEAD + LINE * (Math.max(...titles.map((one) => one.length)) - 1);
    const height = head + Math.max(...scenes.map((scene) => scene.height)) + signs.height;
    const root = svg("svg", { xmlns: "http://www.w3.org/2000/svg", width, height, viewBox: `0 0 ${width} ${height}` });
    root.append(svg("title", {}, title), svg("rect", { width, height, fill: colour("ground") }));
    let left = 0;
    scenes.forEach((scene, number) => {
      const style = { "font-size": TITLE, "font-weight": 600, fill: colour("text") };
      titles[number].forEach((line, k) => { root.append(words(line, left + 16, HEAD / 2 + 4 + k * LINE, style)); });
      root.append(drawScene(scene, left, head));
      left += scene.width;
    });
    root.append(signs.drawn);
    signs.drawn.setAttribute("transform", `translate(0 ${height - signs.height})`);
    return { text: new XMLSerializer().serializeToString(root), width, height };
  }

  /** The signs and what they mean, in as many lines as they need. @param {number} width */
  function legend(width) {
    const drawn = svg("g");
    let x = 16, y = LEGEND / 2;
    for (const entry of document.querySelectorAll("#legend > span")) {
      const text = entry.textContent || "", long = 30 + 7 * text.length + 22;
      if (x > 16 && x + long > width) { x = 16; y += LEGEND * 0.7; }
      drawn.append(sign(/** @type {Element} */ (entry.querySelector("i")).classList, x, y));
      drawn.append(words(text, x + 30, y, { "font-size": 12, fill: colour("faint") }));
      x += long;
    }
    return { drawn, height: y + LEGEND / 2 };
  }

  /** The shape of a kind of node, or the line of a sign.
   * @param {DOMTokenList} classes @param {number} x @param {number} y
   */
  function sign(classes, x, y) {
    const kind = Object.keys(SHAPES).find((one) => classes.contains(one));
    if (kind) {
      const shape = { x: x + 12, y, w: SHAPES[kind] === "round" ? 22 : 14, h: 14, shape: SHAPES[kind] };
      const against = classes.contains("distractor");
      const fill = colour(against ? "ground" : FILLS[kind] || "positive-fill");
      return outline(shape, { fill, stroke: colour("faint"), ...dashes("4 3", against) });
    }
    if (classes.contains("holds")) {
      const points = `${x},${y} ${x + 24},${y} ${x + 24},${y - 6} ${x + 24},${y + 6}`;
      return svg("polyline", { points, fill: "none", "stroke-width": 3, stroke: colour("faint") });
    }
    const positive = classes.contains("positive"), stroke = colour(positive ? "positive" : "negative");
    return svg("line", { x1: x, x2: x + 24, y1: y, y2: y, "stroke-width": 3, stroke, ...dashes("6 3", !positive) });
  }

  /** @param {Blob} blob @param {string} name */
  function download(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  /** @param {"svg" | "png"} form @param {string} title */
  async function save(form, title) {
    const { text, width, height } = compose(title);
    const name = (title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "circuit").slice(0, 60);
    if (form === "svg") { download(new Blob([text], { type: "image/svg+xml" }), `${name}.svg`); return; }
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    const scale = Math.min(SCALE, RASTER / width, RASTER / height);
    const size = { width: Math.round(width * scale), height: Math.round(height * scale) };
    const canvas = Object.assign(document.createElement("canvas"), size);
    canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((made) => { if (made) download(made, `${name}.png`); }, "image/png");
  }

  return { save };
})();
