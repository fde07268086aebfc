// @ts-check
/* Lists whose rows are worked on: pinned nodes with their groups, and interventions. Rows are made when they change and
 * keep their place under the reader's hand; all text is set as text.
 */
const Lists = (() => {
  const MOST = 3; // the largest factor of the slider
  const KINDS = { off: "Off", corrupted: "As corrupted", scale: "Scaled" };
  /** @type {Set<string>} */
  let ticks = new Set();
  /** What the rows were made of. */
  let made = { pins: "", settings: "" };

  /** @template {keyof HTMLElementTagNameMap} Tag
   * @param {Tag} tag @param {Record<string, any>} properties @param {...Node} children
   * @returns {HTMLElementTagNameMap[Tag]}
   */
  function element(tag, { data = {}, aria = "", ...rest } = {}, ...children) {
    const made = Object.assign(document.createElement(tag), rest);
    Object.assign(made.dataset, data);
    if (aria) made.setAttribute("aria-label", aria);
    made.append(...children);
    return made;
  }

  /** @param {string} text @param {string} doing @param {string} on @param {string} aria */
  const button = (text, doing, on, aria) =>
    element("button", { className: "do", textContent: text, data: { do: doing, on }, aria });

  /** @param {string} id */
  const link = (id) =>
    element("button", { className: "link", textContent: Widgets.name(id), data: { do: "focus", on: id } });

  /** @param {CircuitState} own */
  function pins({ pins, groups }) {
    Widgets.element("pins").replaceChildren(...groups.map(groupRow), ...pins.map(pinRow));
    Widgets.element("grouping").hidden = !pins.length;
  }

  /** @param {string} id */
  function pinRow(id) {
    const name = Widgets.name(id);
    const box = element("input", { type: "checkbox", checked: ticks.has(id), aria: `Tick ${name}` });
    box.addEventListener("change", () => { if (box.checked) ticks.add(id); else ticks.delete(id); });
    return element("li", {}, box, link(id), button("✕", "pin", id, `Unpin ${name}`));
  }

  /** @param {Group} group */
  function groupRow({ name, nodes }) {
    const field = element("input", { value: name, maxLength: 200, aria: "Name of the group" });
    field.addEventListener("change", () => Actions.rename(name, field.value));
    const members = element("ul", {}, ...nodes.map((id) => element("li", {}, link(id))));
    const buttons = [
      button("Switch off", "off", `group ${name}`, `Switch off ${name}`),
      button("Ungroup", "ungroup", name, `Ungroup ${name}`),
    ];
    return element("li", { className: "group" }, field, ...buttons, members);
  }

  /** @param {CircuitState["settings"][0]} setting */
  function settingRow([target, setting]) {
    const name = Widgets.name(target);
    const kind = setting === "corrupted" ? "corrupted" : setting === 0 ? "off" : "scale";
    const kinds = Object.entries(KINDS).filter(([value]) => value !== "corrupted" || State.circuit().corrupted);
    const options = kinds.map(([value, textContent]) => element("option", { value, textContent }));
    const choice = element("select", { aria: `What ${name} is set to` }, ...options);
    choice.value = kind;
    const range = element("input", { type: "range", min: 0, max: MOST, step: 0.05, aria: `Factor of ${name}` });
    range.hidden = kind !== "scale";
    range.value = String(kind === "scale" ? setting : 1);
    const factor = () => `× ${Number(range.value).toFixed(2)}`;
    const output = element("output", { textContent: kind === "scale" ? factor() : "" });
    choice.addEventListener("change", () => {
      Actions.intervene(target, choice.value === "off" ? 0 : choice.value === "corrupted" ? "corrupted" : 2);
    });
    range.addEventListener("input", () => {
      output.textContent = factor();
      Actions.intervene(target, Number(range.value));
    });
    const which = target.startsWith("group ") ? element("strong", { textContent: name }) : link(target);
    return element("li", {}, which, choice, range, output, button("✕", "unset", target, `Take back ${name}`));
  }

  /** Makes the rows that changed, or all of them. @param {boolean} [whole] */
  function render(whole = false) {
    const own = State.own();
    ticks = new Set([...ticks].filter((id) => own.pins.includes(id)));
    // A row is not made anew for a slider that moves: it would slip from under the hand.
    const drag = document.activeElement instanceof HTMLInputElement && document.activeElement.type === "range";
    const settings = own.settings.map(([target, value]) => (drag ? [target] : [target, value]));
    const now = {
      pins: JSON.stringify([own.pins, own.groups, own.labels]),
      settings: JSON.stringify([settings, own.labels, State.circuit().corrupted]),
    };
    if (drag) made.settings = now.settings;
    if (whole || now.pins !== made.pins) pins(own);
    if (whole || now.settings !== made.settings) {
      Widgets.element("settings").replaceChildren(...own.settings.map(settingRow));
    }
    made = now;
  }

  return { render, ticked: () => [...ticks] };
})();
