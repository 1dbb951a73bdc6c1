"use strict";
(() => {
  const page = JSON.parse(document.getElementById("page").textContent);
  const filters = [...document.querySelectorAll("select[data-dimension]")];
  const context = document.getElementById("context");
  const figures = page.figures.map((figure, place) => ({ ...figure, place, element: document.getElementById(figure.name) }));
  const text = (row, column) => page.strings[page.texts[row][column]];
  const firsts = [];  // the row with which each context begins
  page.contexts.reduce((first, one) => { firsts.push(first); return first + one.cells.length; }, 0);
  const column = Object.fromEntries(page.dimensions);
  const options = {
    actions: false, renderer: "svg", logLevel: 1,
    tooltip: { formatTooltip: facts },
    config: { background: "transparent", font: "system-ui, sans-serif", view: { stroke: null },
      axis: { labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" }, autosize: { type: "fit-x", contains: "padding" } },
  };
  let shown = new Set();  // rows that all filters leave

  // All facts of a cell, as text: names come from files.
  function facts(datum, sanitize) {
    const row = firsts[Number(context.value)] + datum.cell;
    const lines = page.facts.filter(place => text(row, place) !== "-");
    return `<table class="facts">${lines.map(place => `<tr><td>${sanitize(page.columns[place])}</td><td>${sanitize(text(row, place))}</td></tr>`).join("")}</table>`;
  }

  function table(titles, numeric, lines, label) {
    const box = document.createElement("div");
    Object.assign(box, { className: "scroll", tabIndex: 0 });
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", label);
    const grid = box.appendChild(document.createElement("table"));
    const head = grid.createTHead().insertRow();
    titles.forEach((title, place) => {
      const cell = head.appendChild(document.createElement("th"));
      cell.scope = "col";
      cell.textContent = title;
      cell.classList.toggle("number", numeric[place]);
    });
    const body = grid.createTBody();
    for (const line of lines) {
      const row = body.insertRow();
      line.forEach((one, place) => {
        const cell = row.insertCell();
        cell.textContent = one;
        cell.classList.toggle("number", numeric[place]);
      });
    }
    return box;
  }

  function tableOf(columns, rows, label) {
    const pick = values => columns.map(place => values[place]);
    const told = columns.filter(place => !page.naming.includes(place));
    const kept = rows.filter(row => told.some(place => text(row, place) !== "-"));
    // What a run took is the same for all of its cells: each line once.
    const lines = new Map(kept.map(row => columns.map(place => text(row, place))).map(line => [line.join("\n"), line]));
    return table(pick(page.columns), pick(page.numeric), [...lines.values()], label);
  }

  function rowsOfContext() {
    const number = Number(context.value);
    return page.contexts[number].cells.map((_, place) => firsts[number] + place).filter(row => shown.has(row));
  }

  // Tables behind figures are made when they are opened: all of them at once would be most of the page.
  function fill(details) {
    const holder = details.querySelector(".holder");
    if (!holder || !details.open) return;
    const label = details.querySelector("summary").textContent;
    const detail = page.details[holder.dataset.detail], figure = figures[holder.dataset.figure];
    if (detail) holder.replaceChildren(tableOf(detail.columns, detail.rows.filter(row => shown.has(row)), label));
    else if (figure.columns) holder.replaceChildren(tableOf(figure.columns, rowsOfContext(), `${figure.title}: ${label}`));
    else {
      const lines = page.contexts[Number(context.value)].crossed.filter(line => wanted("attention", line[0]));
      holder.replaceChildren(table(page.crossed, page.crossed.map(() => false), lines, `${figure.title}: ${label}`));
    }
  }

  const value = name => filters.find(filter => filter.dataset.dimension === name)?.value ?? "";
  const wanted = (name, one) => value(name) === "" || value(name) === one;

  function datasets() {
    const one = page.contexts[Number(context.value)];
    const first = firsts[Number(context.value)];
    const named = data => data.filter(datum => wanted("attention", datum.label));
    const cells = one.cells.filter((_, place) => shown.has(first + place)).map(values => {
      const datum = {};
      values.forEach((known, place) => { if (known !== null) datum[page.fields[place]] = known; });
      return datum;
    });
    const grown = one.curves.label ? one.curves.label.map((_, place) => {
      const datum = {};
      for (const [field, values] of Object.entries(one.curves)) if (values[place] !== null) datum[field] = values[place];
      return datum;
    }) : [];
    // A curve through resolutions that a filter hides would be a curve through nothing.
    const curves = value("px") === "" ? named(grown) : [];
    return { cells, curves, crossings: named(one.crossings), comparisons: named(one.comparisons) };
  }

  // One after the other: of two drawings of a figure at once, the older one might be the one that stays.
  let drawn = Promise.resolve();
  function draw(figure) {
    drawn = drawn.then(() => drawNow(figure)).catch(error => console.error(error));
    return drawn;
  }

  const views = new Map();
  async function drawNow(figure) {
    if (!stale.delete(figure)) return;
    const one = page.contexts[Number(context.value)];
    const spec = one.specs[figure.place];
    const data = datasets();
    const empty = spec === null || (figure.columns ? data.cells : data.comparisons).length === 0;
    figure.element.hidden = empty;
    if (empty) return;
    const chart = figure.element.querySelector(".chart");
    const made = structuredClone(page.specs[spec]);
    made.description = `${figure.title}: ${one.title}, ${data.cells.length} cells. The numbers are in the table below.`;
    if (made.layer) made.layer = made.layer.filter(layer => !layer.data || data[layer.data.name].length > 0);
    views.get(figure)?.finalize();
    views.set(figure, await vegaEmbed(chart, { ...made, datasets: data }, options));
  }

  // What can be seen is drawn at once, the others one by one while nothing else is to be done.
  const stale = new Set();
  const near = new IntersectionObserver(entries => {
    for (const entry of entries) if (entry.isIntersecting) draw(figures.find(figure => figure.element === entry.target));
  });
  // On a busy machine a page may never be idle.
  const later = task => (window.requestIdleCallback ? requestIdleCallback(task, { timeout: 500 }) : setTimeout(task, 50));
  function drawLater() {
    const [next] = stale;
    if (next) draw(next).finally(() => later(drawLater));
  }

  function update() {
    shown = new Set(page.texts.keys());
    for (const filter of filters) {
      const place = column[filter.dataset.dimension];
      if (filter.value) for (const row of shown) if (text(row, place) !== filter.value) shown.delete(row);
    }
    document.querySelectorAll("tr[data-row]").forEach(row => { row.hidden = !shown.has(Number(row.dataset.row)); });
    const left = page.contexts.map((one, number) => one.cells.filter((_, place) => shown.has(firsts[number] + place)).length);
    [...context.options].forEach(option => { option.hidden = option.disabled = left[Number(option.value)] === 0; });
    document.querySelectorAll("[data-context]").forEach(part => { part.hidden = left[Number(part.dataset.context)] === 0; });
    if (shown.size > 0 && left[Number(context.value)] === 0) context.value = String(left.indexOf(Math.max(...left)));
    document.getElementById("count").textContent = `${shown.size} of ${page.texts.length} cells`;
    document.getElementById("shown").textContent = page.contexts[Number(context.value)].title;
    document.querySelectorAll("details").forEach(details => {
      if (details.open) fill(details);
      else details.querySelector(".holder")?.replaceChildren();
    });
    for (const figure of figures) { figure.element.hidden = false; stale.add(figure); near.unobserve(figure.element); near.observe(figure.element); }
    later(drawLater);
  }

  function remember() {
    const chosen = new URLSearchParams();
    for (const filter of filters) if (filter.value) chosen.set(filter.dataset.dimension, filter.value);
    if (context.value !== context.dataset.first) chosen.set("figures", page.contexts[Number(context.value)].title);
    history.replaceState(null, "", chosen.size ? `#${chosen}` : location.pathname + location.search);
  }

  function recall() {
    const chosen = new URLSearchParams(location.hash.slice(1));
    const set = (select, wish, first) => {
      const option = [...select.options].find(one => (select === context ? one.textContent : one.value) === wish);
      select.value = option ? option.value : first;
    };
    for (const filter of filters) set(filter, chosen.get(filter.dataset.dimension), "");
    set(context, chosen.get("figures"), context.dataset.first);
    update();
  }

  for (const select of [...filters, context]) select.addEventListener("change", () => { update(); remember(); });
  document.getElementById("reset").addEventListener("click", () => {
    for (const filter of filters) filter.value = "";
    context.value = context.dataset.first;
    update();
    remember();
  });
  addEventListener("hashchange", recall);
  document.querySelectorAll("details").forEach(details => details.addEventListener("toggle", () => fill(details)));

  // Without a script these links are the compressed files; with one, they are the files themselves.
  for (const link of document.querySelectorAll("a[download$='.gz']")) link.addEventListener("click", async event => {
    if (!window.DecompressionStream) return;
    event.preventDefault();
    const packed = Uint8Array.from(atob(link.href.split(",")[1]), one => one.charCodeAt(0));
    const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const url = URL.createObjectURL(await new Response(plain).blob());
    Object.assign(document.createElement("a"), { href: url, download: link.download.replace(/\.gz$/, "") }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  });

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) { details.open = true; fill(details); }
  });
  addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
  recall();
})();
