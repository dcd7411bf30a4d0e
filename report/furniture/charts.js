// Draws the page's charts, as wide as the text and with panels stacked on a phone. A chart whose marks
// are components lists them in a table below it, and a click on a mark leads to its row. What is too
// wide for the page scrolls in a box of its own.

const REPEATED = new Set(["kind", "layer", "component", "note"]); // the name has them
const ACTIONS = { export: true, source: false, compiled: false, editor: false };
const PHONE = 500; // pixels below which panels stack
const [LEAST, MOST, GAP] = [80, 420, 20]; // of a panel's width, and between panels
const EQUATION = 'span:has(> math[display="block"])';

// What a row is of, such as a head on a task; a mark's datum has the same.
const key = (row) => Object.values(row).filter((value) => typeof value === "string").join("\n");

function cell(kind, text) {
  const made = document.createElement(kind);
  made.textContent = typeof text === "number" && !Number.isInteger(text) ? text.toPrecision(4) : text;
  return made;
}

// The table is made when it is first opened: most never are.
function listing(rows) {
  const columns = Object.keys(rows[0]).filter((column) => !REPEATED.has(column));
  const table = document.createElement("table");
  table.className = "table table-sm chart-rows";
  const head = table.createTHead().insertRow();
  for (const column of columns) {
    const title = cell("th", column === "name" ? "component" : column);
    title.scope = "col";
    head.append(title);
  }
  const body = table.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    line.dataset.key = key(row);
    line.tabIndex = -1;
    line.append(...columns.map((column) => cell(column === "name" ? "th" : "td", row[column])));
    line.firstChild.scope = "row";
  }
  return table;
}

function addListing(place, rows) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = `The ${rows.length} components drawn, in a table`;
  details.append(summary);
  const fill = () => {
    if (details.childElementCount === 1) {
      const frame = document.createElement("div");
      frame.className = "chart-frame";
      frame.append(listing(rows));
      details.append(frame);
      leadKeyboard(frame);
    }
  };
  details.addEventListener("toggle", fill);
  place.append(details);
  return (datum) => {
    fill();
    details.open = true;
    for (const line of details.querySelectorAll("tr[data-key]")) {
      const chosen = line.dataset.key === key(datum);
      line.classList.toggle("chosen", chosen);
      if (chosen) {
        line.scrollIntoView({ block: "center" });
        line.focus({ preventScroll: true });
      }
    }
  };
}

// The arrow keys scroll a box only where Tab reaches it.
function leadKeyboard(box) {
  const caption = box.closest("figure")?.querySelector("figcaption")?.textContent.trim();
  const named = { tabindex: 0, role: "region", "aria-label": caption ?? "Wider than the page" };
  const lead = () => {
    const scrolls = box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight;
    for (const [name, value] of Object.entries(named)) {
      if (scrolls) box.setAttribute(name, value);
      else box.removeAttribute(name);
    }
  };
  new ResizeObserver(lead).observe(box);
}

// Tables get boxes, except in the preview's; equations, code and charts stand in one as they are.
function boxWide() {
  for (const table of document.querySelectorAll("table:not(.scroll *)")) {
    // A browser shares the width out better than Quarto's columns do.
    table.querySelector("colgroup")?.remove();
    const box = document.createElement("div");
    box.className = "wide";
    table.replaceWith(box);
    box.append(table);
  }
  document.querySelectorAll(`.wide, .chart, pre, .sourceCode, ${EQUATION}`).forEach(leadKeyboard);
}

// Quarto's callouts open by the pointer only.
function openByKeyboard(header) {
  header.role = "button";
  header.tabIndex = 0;
  header.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    header.click();
  });
}

// As Quarto writes `fig-alt` on the figure, or else the caption.
function alternativeText(place) {
  const figure = place.closest("[alt], [fig-alt], [data-fig-alt]");
  const given = ["alt", "fig-alt", "data-fig-alt"].map((name) => figure?.getAttribute(name));
  return given.find(Boolean) ?? place.closest("figure")?.querySelector("figcaption")?.textContent.trim();
}

// Panels of equal width fill the page, and a square one stays square. `axes` is what stands beside a
// panel; one that may not grow becomes narrower where it must.
function fit(spec, room) {
  const { axes, grow } = spec.usermeta ?? {};
  if (!axes) return spec;
  if (room < PHONE) {
    spec.columns = 1;
    spec.config.legend.columns = 2;
  }
  const width = Math.max(room / spec.columns - axes - GAP, LEAST);
  for (const panel of spec.concat) {
    const square = panel.height === panel.width;
    panel.width = Math.min(width, grow ? Math.max(panel.width, MOST) : panel.width);
    if (square) panel.height = panel.width;
  }
  return spec;
}

function csv(rows) {
  const columns = [...new Set(rows.flatMap(Object.keys))];
  const quote = (value) => {
    const text = String(value ?? "");
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows.map((row) => columns.map((column) => row[column]))]
    .map((line) => line.map(quote).join(",") + "\n")
    .join("");
}

// Vega-embed's menu, which saves the picture, saves the data too.
function completeMenu(place, rows, name) {
  const summary = place.querySelector(".vega-embed summary");
  summary.ariaLabel = "Save this chart";
  summary.firstElementChild.ariaHidden = true;
  const link = document.createElement("a");
  link.textContent = "Save data as CSV";
  link.href = URL.createObjectURL(new Blob([csv(rows)], { type: "text/csv" }));
  link.download = `${name}.csv`;
  place.querySelector(".vega-actions").append(link);
}

async function draw(place) {
  const given = JSON.parse(place.querySelector("script").textContent);
  const rows = given.datasets?.[given.data?.name] ?? Object.values(given.datasets ?? {}).flat();
  const name = place.closest("[id^=fig-]")?.id ?? "chart";
  const lead = rows[0]?.name ? addListing(place, rows) : () => {};
  let view;
  const redraw = async () => {
    view?.finalize();
    const spec = fit(structuredClone(given), place.clientWidth);
    spec.description = alternativeText(place);
    const settings = { actions: ACTIONS, downloadFileName: name, renderer: "svg" };
    ({ view } = await vegaEmbed(place.firstElementChild, spec, settings));
    completeMenu(place, rows, name);
    view.addEventListener("click", (_, item) => item?.datum?.name && lead(item.datum));
  };
  await redraw();
  matchMedia(`(max-width: ${PHONE}px)`).addEventListener("change", redraw);
}

const style = document.createElement("style");
style.textContent = `
  .chart, .wide, pre, .sourceCode, ${EQUATION} { overflow-x: auto; }
  ${EQUATION} { display: block; }
  .chart { text-align: start; }
  .chart { position: relative; }
  .chart .vega-embed.has-actions { padding-right: 0; padding-top: 1.75rem; }
  .chart .vega-embed summary { color: #333; top: 0; }
  .chart svg :is(.role-axis-label, .role-axis-title, .role-title, .role-legend) text {
    fill: currentColor;
  }
  .chart details { font-size: 0.875rem; }
  .chart-frame { max-height: 20rem; overflow: auto; }
  .chart-rows { font-size: 0.8rem; width: auto; }
  .chart-rows .chosen > * { outline: 2px solid #D55E00; }
`;
document.head.append(style);
boxWide();
document.querySelectorAll(".callout-header[aria-expanded]").forEach(openByKeyboard);
for (const place of document.querySelectorAll(".chart")) draw(place);
