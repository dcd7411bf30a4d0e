// Draws the page's charts. A chart whose marks are components lists them in a table below it, and a
// click on a mark leads to its row. What is too wide for the page scrolls in a box of its own.

const HIDDEN = new Set(["name"]);
const EQUATION = 'span:has(> math[display="block"])';

function components(spec) {
  const found = new Map();
  for (const rows of Object.values(spec.datasets ?? {})) {
    for (const row of rows) {
      if (row.name) found.set(row.name, { ...found.get(row.name), ...row });
    }
  }
  return found;
}

function cell(kind, text) {
  const made = document.createElement(kind);
  made.textContent = typeof text === "number" && !Number.isInteger(text) ? text.toPrecision(4) : text;
  return made;
}

// The table is made when it is first opened: most never are.
function listing(found) {
  const columns = Object.keys(found.values().next().value).filter((column) => !HIDDEN.has(column));
  const table = document.createElement("table");
  table.className = "table table-sm chart-rows";
  const head = table.createTHead().insertRow();
  for (const column of ["component", ...columns]) {
    const title = cell("th", column);
    title.scope = "col";
    head.append(title);
  }
  const body = table.createTBody();
  for (const [name, row] of found) {
    const line = body.insertRow();
    line.dataset.name = name;
    line.tabIndex = -1;
    line.append(cell("th", name), ...columns.map((column) => cell("td", row[column])));
    line.firstChild.scope = "row";
  }
  return table;
}

function addListing(place, found) {
  const details = document.createElement("details");
  const summary = document.createElement("summary");
  summary.textContent = `The ${found.size} components drawn, in a table`;
  details.append(summary);
  const fill = () => {
    if (details.childElementCount === 1) {
      const frame = document.createElement("div");
      frame.className = "chart-frame";
      frame.append(listing(found));
      details.append(frame);
      leadKeyboard(frame);
    }
  };
  details.addEventListener("toggle", fill);
  place.append(details);
  return (name) => {
    fill();
    details.open = true;
    for (const line of details.querySelectorAll("tr[data-name]")) {
      line.classList.toggle("chosen", line.dataset.name === name);
      if (line.dataset.name === name) {
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

async function draw(place) {
  const spec = JSON.parse(place.querySelector("script").textContent);
  const { view } = await vegaEmbed(place.firstElementChild, spec, { actions: false, renderer: "svg" });
  const found = components(spec);
  if (found.size) {
    const lead = addListing(place, found);
    view.addEventListener("click", (_, item) => item?.datum?.name && lead(item.datum.name));
  }
}

const style = document.createElement("style");
style.textContent = `
  .chart, .wide, pre, .sourceCode, ${EQUATION} { overflow-x: auto; }
  ${EQUATION} { display: block; }
  .chart { text-align: start; }
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
