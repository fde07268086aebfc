// @ts-check
/* Work in the background, a row for each job. Rows are kept while their words change: a button stays under the hand. */
const Jobs = (() => {
  /** The rows that stand there, by their jobs. @type {Map<number, ReturnType<typeof make>>} */
  const rows = new Map();

  /** @param {Work[]} jobs */
  function render(jobs) {
    for (const [id, { row }] of rows) {
      if (jobs.some((job) => job.id === id)) continue;
      row.remove();
      rows.delete(id);
    }
    for (const job of jobs) {
      const made = rows.get(job.id) || make(job.id);
      rows.set(job.id, made);
      fill(made, job);
    }
  }

  /** @param {number} id */
  function make(id) {
    const row = Object.assign(document.createElement("div"), { className: "job" });
    const title = document.createElement("strong");
    const stage = Object.assign(document.createElement("span"), { className: "stage" });
    const said = document.createElement("span");
    const warnings = document.createElement("em");
    const progress = Object.assign(document.createElement("progress"), { max: 100 });
    const button = Object.assign(document.createElement("button"), { className: "do" });
    button.dataset.on = String(id);
    stage.append(said, warnings);
    row.append(title, stage, progress, button);
    Widgets.element("jobs").append(row);
    return { row, title, said, warnings, progress, button };
  }

  /** @param {ReturnType<typeof make>} made @param {Work} job */
  function fill({ title, said, warnings, progress, button }, job) {
    write(title, job.title);
    title.title = job.title;
    write(said, job.stage);
    write(warnings, job.warnings.join("\n"));
    progress.hidden = job.ended;
    progress.value = job.share;
    progress.setAttribute("aria-label", job.title);
    write(button, job.ended ? "Dismiss" : "Cancel");
    button.title = `${button.textContent}: ${job.title}`;
    button.dataset.do = job.ended ? "dismiss" : "cancel";
  }

  /** @param {HTMLElement} element @param {string} text */
  function write(element, text) { if (element.textContent !== text) element.textContent = text; }

  return { render };
})();
