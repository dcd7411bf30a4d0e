// Clicks the first point of the page's charts, and leaves what came of it in the page's title.
setTimeout(() => {
  const point = document.querySelector('.chart path[aria-roledescription="circle"]');
  const { x, y, width, height } = point.getBoundingClientRect();
  const at = { bubbles: true, clientX: x + width / 2, clientY: y + height / 2 };
  for (const name of ["pointermove", "mousemove", "mousedown", "mouseup", "click"]) {
    point.dispatchEvent(new MouseEvent(name, at));
  }
  setTimeout(() => {
    const row = document.querySelector("tr.chosen");
    document.title = "clicked " + JSON.stringify({
      row: row?.firstChild.textContent,
      focus: document.activeElement === row,
      label: point.getAttribute("aria-label"),
      pointer: document.querySelector("#vg-tooltip-element")?.textContent,
    });
  }, 1000);
}, 4000);
