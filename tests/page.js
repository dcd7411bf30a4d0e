// Looks at a page for tests/crawl.py; what tells of faults gives a text for each element at fault.
globalThis.look = (() => {
  const told = (element) =>
    (element.id ? `#${element.id} ` : "") +
    element.cloneNode(false).outerHTML.slice(0, 100) +
    ` ${element.textContent.trim().slice(0, 40)}`;

  function luminance(colour) {
    const parts = colour.match(/[\d.]+/g).slice(0, 3).map((part) => part / 255);
    const [red, green, blue] = parts.map((part) =>
      part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4,
    );
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }

  function contrast(one, other) {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  }

  function background(element) {
    for (let above = element; above; above = above.parentElement) {
      const colour = getComputedStyle(above).backgroundColor;
      if (!/, 0\)$|transparent/.test(colour)) return colour;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? "rgb(18, 18, 18)" : "rgb(255, 255, 255)";
  }

  // The colour of the last mark drawn below the middle of a text, or else the page's.
  function behind(text) {
    const { x, y, width, height } = text.getBoundingClientRect();
    const covers = ({ left, right, top, bottom }) =>
      left <= x + width / 2 && x + width / 2 <= right && top <= y + height / 2 && y + height / 2 <= bottom;
    const tiles = [...text.closest("svg").querySelectorAll(".mark-rect.role-mark path")];
    const tile = tiles.findLast((path) => covers(path.getBoundingClientRect()));
    return tile ? getComputedStyle(tile).fill : background(text);
  }

  return {
    links: () => [...document.querySelectorAll("a[href]")].map((link) => link.href),
    anchors: () => [...document.querySelectorAll("[id], a[name]")].map(({ id, name }) => id || name),
    isDark: () => luminance(getComputedStyle(document.body).color) > 0.5,
    isDrawn: () => [...document.querySelectorAll(".chart")].every((chart) => chart.querySelector("svg")),

    // Vega names the box that it draws in.
    unnamed: () =>
      [...document.querySelectorAll("img, svg")]
        .filter((graphic) => !graphic.closest("[aria-hidden=true]"))
        .map((graphic) => graphic.closest("[role=graphics-document]") ?? graphic)
        .filter((graphic) => !(graphic.getAttribute("alt") ?? graphic.ariaLabel)?.trim())
        .map(told),

    overflowing: () =>
      document.documentElement.scrollWidth <= innerWidth
        ? []
        : [...document.querySelectorAll("body *")]
            .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
            .slice(0, 3)
            .map(told),

    // axe takes no notice of text in drawings.
    faint: () =>
      [...document.querySelectorAll(".chart svg text")]
        .filter((text) => text.textContent.trim())
        .map((text) => [text, contrast(getComputedStyle(text).fill, behind(text))])
        .filter(([, ratio]) => ratio < 4.5)
        .map(([text, ratio]) => `${ratio.toFixed(2)}:1 ${told(text)}`),
  };
})();
