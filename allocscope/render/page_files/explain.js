// Draws the map of the heaps' pages and sorts tables. One byte for a page arrives packed in #pages;
// what the bytes mean: allocscope/model/page_map.py. Nothing here makes HTML out of text.
"use strict";
(() => {
  const HELD = 16, SHARES = 16;
  const STATES = ["absent", "swapped", "other", "free", "trimmable", "lazy"];
  const WORDS = {
    absent: "not in memory", swapped: "swapped out", other: "none of the chunks that were read",
    free: "free, and malloc_trim leaves it", trimmable: "free, malloc_trim would release it",
    lazy: "lazily freed",
  };

  // ---- tables: a click on a heading sorts ----

  function sortBy(table, column, down) {
    const body = table.tBodies[0];
    const key = (row) => {
      const cell = row.cells[column];
      return cell.dataset.sort === undefined ? cell.textContent : Number(cell.dataset.sort);
    };
    const order = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b));
    const rows = Array.from(body.rows, (row) => ({ row, key: key(row) }));
    rows.sort((a, b) => (down ? order(b.key, a.key) : order(a.key, b.key)));
    body.append(...rows.map((one) => one.row));
  }

  for (const table of document.querySelectorAll("table")) {
    const headings = Array.from(table.tHead.rows[0].cells);
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const before = heading.getAttribute("aria-sort");
        const down = before ? before === "ascending" : heading.classList.contains("n");
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        sortBy(table, column, down);
      });
    });
  }

  // ---- the map ----

  const holder = document.getElementById("pages");
  if (!holder) return;
  const packed = JSON.parse(holder.textContent);
  const canvas = document.querySelector(".map canvas");
  const told = document.querySelector(".told");
  const context = canvas.getContext("2d");
  const heaps = packed.heaps.map(([arena, start, count]) => ({ arena, start: BigInt("0x" + start), count }));
  let first = 0;
  for (const heap of heaps) {
    heap.first = first;
    first += heap.count;
  }
  const pageCount = first;
  const GUTTER = 76, NARROW_GUTTER = 34;
  let cells = null, colours = null, paper = [0, 0, 0];
  let columns = 64, rowCount = 0, rowHeap = null; // the sheet: all heaps below each other
  let view = null; // the part of the sheet that is seen: x, y, width, height, in pages
  let whole = null;

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const rgb = (name) => {
      const hex = style.getPropertyValue("--" + name).trim();
      return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    };
    const between = (a, b, part) => a.map((value, i) => value + (b[i] - value) * part);
    const [low, middle, high] = ["held-low", "held-mid", "held-high"].map(rgb);
    colours = new Float64Array(256 * 3);
    paper = rgb("paper");
    STATES.forEach((name, cell) => colours.set(rgb(name), cell * 3));
    for (let share = 0; share < SHARES; share++) {
      const part = share / (SHARES - 1);
      const colour = part < 0.5 ? between(low, middle, part * 2) : between(middle, high, part * 2 - 1);
      colours.set(colour, (HELD + share) * 3);
    }
    return { ink: style.getPropertyValue("--ink"), dim: style.getPropertyValue("--dim") };
  }

  const gutter = () => (canvas.clientWidth < 600 ? NARROW_GUTTER : GUTTER);

  // As many columns as make the pages about square when all of them are seen. Between heaps the
  // sheet is empty for as many rows as can then be told apart.
  function layOut() {
    const wide = canvas.clientWidth - gutter(), high = canvas.clientHeight;
    const filled = (count) => heaps.reduce((sum, heap) => sum + Math.ceil(heap.count / count), 0);
    const gapFor = (count) => Math.ceil((2 * filled(count)) / high);
    const rowsFor = (count) => filled(count) + heaps.length * gapFor(count);
    columns = 16;
    while (wide / (columns * 2) >= high / rowsFor(columns * 2) && columns < 65536) columns *= 2;
    rowCount = rowsFor(columns);
    const gap = gapFor(columns);
    rowHeap = new Int32Array(rowCount).fill(-1);
    let row = 0;
    heaps.forEach((heap, index) => {
      heap.row = row;
      heap.rows = Math.ceil(heap.count / columns);
      rowHeap.fill(index, row, row + heap.rows);
      row += heap.rows + gap;
    });
    whole = { x: 0, y: 0, width: columns, height: Math.max(rowCount - gap, 1) };
    view = { ...whole };
  }

  // For each pixel of a line the pages that it stands for: from[i] up to from[i] + many[i].
  function spread(pixels, start, length, end) {
    const from = new Int32Array(pixels), many = new Int32Array(pixels), edge = new Uint8Array(pixels);
    const step = length / pixels;
    for (let i = 0; i < pixels; i++) {
      const at = start + i * step;
      from[i] = Math.floor(at);
      many[i] = Math.max(1, Math.min(Math.floor(at + step), end) - from[i]);
      if (step < 0.17 && Math.floor(at + step) > from[i]) edge[i] = 1;
    }
    return { from, many, edge };
  }

  function drawLine(data, offset, pixels, across, row, rows) {
    for (let px = 0; px < pixels; px++) {
      let red = 0, green = 0, blue = 0, seen = 0;
      const column = across.from[px];
      for (let r = row; r < row + rows && r < rowCount; r++) {
        if (r < 0 || rowHeap[r] < 0) continue;
        const heap = heaps[rowHeap[r]];
        const at = (r - heap.row) * columns + column;
        const end = Math.min(at + across.many[px], heap.count, (r - heap.row + 1) * columns);
        if (column < 0) continue;
        for (let page = at; page < end; page++) {
          const colour = cells[heap.first + page] * 3;
          red += colours[colour];
          green += colours[colour + 1];
          blue += colours[colour + 2];
          seen++;
        }
      }
      const blank = !seen || across.edge[px];
      data[offset++] = blank ? paper[0] : red / seen;
      data[offset++] = blank ? paper[1] : green / seen;
      data[offset++] = blank ? paper[2] : blue / seen;
      data[offset++] = 255;
    }
  }

  function drawPages(left, wide, high) {
    const image = context.createImageData(wide, high), data = image.data, line = wide * 4;
    const across = spread(wide, view.x, view.width, columns);
    const down = spread(high, view.y, view.height, rowCount);
    for (let py = 0; py < high; py++) {
      const same = py && down.from[py] === down.from[py - 1] && down.many[py] === down.many[py - 1];
      if (same && !down.edge[py] && !down.edge[py - 1]) data.copyWithin(py * line, (py - 1) * line, py * line);
      else if (down.edge[py]) for (let i = 0; i < line; i++) data[py * line + i] = i % 4 < 3 ? paper[i % 4] : 255;
      else drawLine(data, py * line, wide, across, down.from[py], down.many[py]);
    }
    context.putImageData(image, left, 0);
  }

  function drawNames(ink, left, high, ratio) {
    context.fillStyle = ink;
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "top";
    const narrow = left < GUTTER * ratio;
    let free = 0; // names do not cover each other
    for (const heap of heaps) {
      const top = ((heap.row - view.y) * high) / view.height;
      const bottom = ((heap.row + heap.rows - view.y) * high) / view.height;
      const y = Math.max(top, free);
      if (bottom <= 0 || top >= high || y + 6 * ratio > Math.max(bottom, top + 14 * ratio)) continue;
      context.fillText(narrow ? String(heap.arena) : `arena ${heap.arena}`, 4 * ratio, y + 2 * ratio, left - 6 * ratio);
      free = y + 14 * ratio;
    }
  }

  function draw() {
    if (!cells) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    const { dim } = readColours();
    const left = Math.round(gutter() * ratio);
    drawPages(left, Math.max(canvas.width - left, 1), canvas.height);
    drawNames(dim, left, canvas.height, ratio);
    canvas.dataset.pages = pageCount;
    canvas.dataset.view = [view.x, view.y, view.width, view.height].map((v) => v.toFixed(1)).join(" ");
  }

  let waiting = false;
  function drawSoon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }

  // ---- moving about ----

  function keepInside() {
    view.width = Math.min(Math.max(view.width, 4), whole.width);
    view.height = Math.min(Math.max(view.height, 2), whole.height);
    view.x = Math.min(Math.max(view.x, 0), whole.width - view.width);
    view.y = Math.min(Math.max(view.y, 0), whole.height - view.height);
  }

  // px, py: the place that stays where it is, as parts of the picture's width and height.
  function zoom(factor, px = 0.5, py = 0.5) {
    const x = view.x + px * view.width, y = view.y + py * view.height;
    view.width *= factor;
    view.height *= factor;
    keepInside();
    view.x = x - px * view.width;
    view.y = y - py * view.height;
    keepInside();
    drawSoon();
  }

  function move(dx, dy) {
    view.x += dx;
    view.y += dy;
    keepInside();
    drawSoon();
  }

  function showAll() {
    view = { ...whole };
    drawSoon();
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const left = gutter();
    return { px: (event.clientX - box.left - left) / (box.width - left), py: (event.clientY - box.top) / box.height };
  }

  function tell(event) {
    const { px, py } = place(event);
    const column = Math.floor(view.x + px * view.width), row = Math.floor(view.y + py * view.height);
    const heap = px >= 0 && row >= 0 && row < rowCount ? heaps[rowHeap[row]] : undefined;
    const page = heap ? (row - heap.row) * columns + column : -1;
    if (!heap || column >= columns || page >= heap.count) {
      told.textContent = "";
      return;
    }
    const cell = cells[heap.first + page];
    const address = (heap.start + BigInt(page) * BigInt(packed.page_bytes)).toString(16);
    const state = cell < HELD ? WORDS[STATES[cell]] : cell === HELD + SHARES - 1
      ? "held, all of it or nearly" : `up to ${cell - HELD + 1}/${SHARES} of it held`;
    told.textContent = `0x${address}, arena ${heap.arena}: ${state}`;
    canvas.title = told.textContent;
  }

  function listen() {
    const fingers = new Map();
    const apart = () => {
      const [a, b] = [...fingers.values()];
      return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) || 1;
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const { px, py } = place(event);
      zoom(Math.exp(Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) / 400), px, py);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, event);
      canvas.setPointerCapture(event.pointerId);
      canvas.classList.add("moving");
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      tell(event);
      if (!before) return;
      const wide = fingers.size === 2 ? apart() : 0;
      fingers.set(event.pointerId, event);
      if (fingers.size === 2) {
        const { px, py } = place(event);
        zoom(wide / apart(), px, py);
        return;
      }
      const was = place(before), is = place(event);
      move((was.px - is.px) * view.width, (was.py - is.py) * view.height);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => {
        fingers.delete(event.pointerId);
        if (!fingers.size) canvas.classList.remove("moving");
      });
    }
    canvas.addEventListener("keydown", (event) => {
      const keys = {
        "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: showAll,
        ArrowLeft: () => move(-view.width / 8, 0), ArrowRight: () => move(view.width / 8, 0),
        ArrowUp: () => move(0, -view.height / 8), ArrowDown: () => move(0, view.height / 8),
      };
      if (!keys[event.key]) return;
      event.preventDefault();
      keys[event.key]();
    });
    const buttons = { in: () => zoom(0.5), out: () => zoom(2), all: showAll };
    for (const button of document.querySelectorAll(".zoom button")) {
      button.addEventListener("click", buttons[button.dataset.zoom]);
    }
    let width = canvas.clientWidth;
    window.addEventListener("resize", () => {
      if (canvas.clientWidth !== width) layOut();
      width = canvas.clientWidth;
      drawSoon();
    });
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawSoon);
  }

  unpack(packed.cells).then((bytes) => {
    cells = bytes;
    told.textContent = "";
    layOut();
    listen();
    draw();
  }).catch((error) => {
    told.textContent = `The map cannot be drawn here: ${error.message}`;
  });
})();
