/* Lists whose rows are worked on: pinned nodes with their groups, and interventions. Rows are made when they change and
 * keep their place under the reader's hand; all text is set as text.
 */
(function () {
  "use strict";

  const page = (window.circuitlens = window.circuitlens || {});
  const MOST = 3; // the largest factor of the slider
  let ticks = new Set();
  let made = { pins: "", settings: "" };

  function element(tag, properties = {}, ...children) {
    const { data = {}, aria, ...rest } = properties;
    const made = Object.assign(document.createElement(tag), rest);
    Object.assign(made.dataset, data);
    if (aria) made.setAttribute("aria-label", aria);
    made.append(...children);
    return made;
  }

  const button = (text, doing, on, aria) =>
    element("button", { className: "do", textContent: text, data: { do: doing, on }, aria });
  const link = (id, name) => element("button", { className: "link", textContent: name, data: { do: "focus", on: id } });

  function pins({ pins, groups }) {
    const { name } = page.state;
    const tick = (id) => {
      const box = element("input", { type: "checkbox", checked: ticks.has(id), aria: `Tick ${name(id)}` });
      box.addEventListener("change", () => { if (box.checked) ticks.add(id); else ticks.delete(id); });
      return box;
    };
    const rows = pins.map((id) => element("li", {}, tick(id), link(id, name(id)), button("✕", "pin", id, `Unpin ${name(id)}`)));
    const groupRows = groups.map((group) => {
      const field = element("input", { value: group.name, maxLength: 200, aria: "Name of the group" });
      field.addEventListener("change", () => page.state.rename(group.name, field.value));
      return element("li", { className: "group" }, field, button("Switch off", "off", `group ${group.name}`, `Switch off ${group.name}`),
        button("Ungroup", "ungroup", group.name, `Ungroup ${group.name}`),
        element("ul", {}, ...group.nodes.map((id) => element("li", {}, link(id, name(id))))));
    });
    document.getElementById("pins").replaceChildren(...groupRows, ...rows);
    document.getElementById("grouping").hidden = !pins.length;
  }

  function settings({ settings }) {
    const { name, intervene } = page.state;
    const corrupted = page.state.strongest().corrupted;
    const rows = settings.map(([target, setting]) => {
      const kinds = [["off", "Off"], ...(corrupted ? [["corrupted", "As corrupted"]] : []), ["scale", "Scaled"]];
      const kind = setting === "corrupted" ? "corrupted" : setting === 0 ? "off" : "scale";
      const choice = element("select", { aria: `What ${name(target)} is set to` },
        ...kinds.map(([value, text]) => element("option", { value, textContent: text, selected: value === kind })));
      const range = element("input", {
        type: "range", min: 0, max: MOST, step: 0.05, aria: `Factor of ${name(target)}`, hidden: kind !== "scale",
      });
      range.value = kind === "scale" ? setting : 1;
      const told = element("output", { textContent: kind === "scale" ? `× ${Number(range.value).toFixed(2)}` : "" });
      choice.addEventListener("change", () => {
        intervene(target, choice.value === "off" ? 0 : choice.value === "corrupted" ? "corrupted" : 2);
      });
      range.addEventListener("input", () => {
        told.textContent = `× ${Number(range.value).toFixed(2)}`;
        intervene(target, Number(range.value));
      });
      const which = target.startsWith("group ") ? element("strong", { textContent: name(target) }) : link(target, name(target));
      return element("li", {}, which, choice, range, told, button("✕", "unset", target, `Take back ${name(target)}`));
    });
    document.getElementById("settings").replaceChildren(...rows);
  }

  page.lists = {
    ticked: () => [...ticks],
    render(whole = false) {
      const own = page.state.own();
      ticks = new Set([...ticks].filter((id) => own.pins.includes(id)));
      // A row is not made anew for a slider that moves: it would slip from under the hand.
      const drag = document.activeElement && document.activeElement.type === "range";
      const now = {
        pins: JSON.stringify([own.pins, own.groups, own.labels]),
        settings: JSON.stringify([own.settings.map(([target, value]) => (drag ? [target] : [target, value])), own.labels,
          page.state.strongest().corrupted]),
      };
      if (drag) made.settings = now.settings;
      if (whole || now.pins !== made.pins) pins(own);
      if (whole || now.settings !== made.settings) settings(own);
      made = now;
    },
  };
})();
