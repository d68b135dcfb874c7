"use strict";
// From images in units of the data to crisp pixels on a canvas, and from a pointer back to pixels.

/** Accent colour and the like, as the style sheet has them. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Image number i of x as RGBA, rounded as Python rounds it. */
function pixels(model, x, i = 0) {
  const [channels, h, w] = model.shape,
    area = h * w;
  const data = new ImageData(w, h);
  for (let p = 0; p < area; p++) {
    for (let c = 0; c < 3; c++) {
      const u = x[i * channels * area + (c % channels) * area + p] * model.scale + model.offset + 0.5;
      data.data[4 * p + c] = Math.floor(clamp(u, [0, 255]));
    }
    data.data[4 * p + 3] = 255;
  }
  return data;
}

/** A canvas of equal tiles, each pixel of an image a whole number of pixels of the screen. */
class Tiles {
  constructor(canvas, model) {
    Object.assign(this, { canvas, model, shown: [], columns: 1, rows: 1 });
    this.tile = document.createElement("canvas");
    [, this.tile.height, this.tile.width] = model.shape;
    this.context = canvas.getContext("2d");
    this.fit();
    new ResizeObserver(() => this.fit()).observe(canvas.parentElement);
  }

  /** As many tiles, at the size that the place has. */
  lay(columns, rows) {
    if (columns !== this.columns || rows !== this.rows) this.shown = [];
    Object.assign(this, { columns, rows });
    this.fit();
  }

  fit() {
    const [, h, w] = this.model.shape,
      ratio = window.devicePixelRatio || 1;
    const place = this.canvas.parentElement;
    const axes = [
      { room: place.clientWidth * ratio, tiles: this.columns, pixels: w },
      { room: place.clientHeight * ratio, tiles: this.rows, pixels: h },
    ];
    const zooms = axes.map(({ room, tiles, pixels }) => (room - 2 * (tiles - 1)) / (tiles * pixels));
    this.zoom = Math.max(1, Math.floor(Math.min(...zooms)));
    const left = axes.map(
      ({ room, tiles, pixels }) => (room - tiles * pixels * this.zoom) / (tiles - 1 || 1),
    );
    const gap = this.columns > 1 ? Math.max(2, Math.floor(Math.min(...left, axes[0].room / 100))) : 0;
    this.step = [w * this.zoom + gap, h * this.zoom + gap];
    const size = [this.columns * this.step[0] - gap, this.rows * this.step[1] - gap];
    if (this.canvas.width !== size[0] || this.canvas.height !== size[1]) {
      [this.canvas.width, this.canvas.height] = size;
      this.canvas.style.width = `${size[0] / ratio}px`;
      this.canvas.style.height = `${size[1] / ratio}px`;
    }
    this.shown.forEach((data, i) => data && this.put(i, data));
  }

  put(i, data) {
    if (i >= this.columns * this.rows) return;
    this.shown[i] = data;
    const [h, w] = [this.tile.height, this.tile.width];
    const [x, y] = [(i % this.columns) * this.step[0], Math.floor(i / this.columns) * this.step[1]];
    this.tile.getContext("2d").putImageData(data, 0, 0);
    this.context.imageSmoothingEnabled = false;
    this.context.drawImage(this.tile, 0, 0, w, h, x, y, w * this.zoom, h * this.zoom);
    this.over?.();
  }

  /** Shows images of x from tile `first` on. */
  show(x, first = 0) {
    const n = this.model.shape.reduce((a, b) => a * b);
    for (let i = 0; i < x.length / n; i++) this.put(first + i, pixels(this.model, x, i));
  }
}

/** A line around the pixels where `known` is 0. */
function outline(tiles, known) {
  const [, h, w] = tiles.model.shape,
    { context, zoom } = tiles;
  const hole = (x, y) => x >= 0 && y >= 0 && x < w && y < h && !known[y * w + x];
  context.fillStyle = colour("--accent");
  const thick = Math.max(1, Math.round(1.5 * (window.devicePixelRatio || 1)));
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) {
      if (!hole(x, y)) continue;
      const [left, top] = [x * zoom, y * zoom];
      if (!hole(x - 1, y)) context.fillRect(left, top, thick, zoom);
      if (!hole(x + 1, y)) context.fillRect(left + zoom - thick, top, thick, zoom);
      if (!hole(x, y - 1)) context.fillRect(left, top, zoom, thick);
      if (!hole(x, y + 1)) context.fillRect(left, top + zoom - thick, zoom, thick);
    }
  }
}

/** Hatches over the pixels where `known` is 0. */
function hatch(tiles, known) {
  const [, h, w] = tiles.model.shape,
    { context, zoom } = tiles;
  context.save();
  context.beginPath();
  for (let p = 0; p < h * w; p++)
    if (!known[p]) context.rect((p % w) * zoom, Math.floor(p / w) * zoom, zoom, zoom);
  context.clip();
  context.fillStyle = colour("--field");
  context.fillRect(0, 0, w * zoom, h * zoom);
  const apart = 9 * (window.devicePixelRatio || 1);
  context.strokeStyle = colour("--accent");
  context.lineWidth = apart / 7;
  context.beginPath();
  for (let s = -h * zoom; s < w * zoom; s += apart) {
    context.moveTo(s, h * zoom);
    context.lineTo(s + h * zoom, 0);
  }
  context.stroke();
  context.restore();
}

/** Calls paint(pixel numbers) where a pointer draws, or the arrow keys and the space bar do. */
class Brush {
  constructor(tiles, radius, paint) {
    Object.assign(this, { tiles, radius, paint, last: null, at: null });
    const { canvas } = tiles;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      this.at = this.last = null;
      this.line(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.last) for (const part of event.getCoalescedEvents?.() ?? [event]) this.line(part);
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.last = null));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.move(null));
  }

  /** From where the pointer was to where it is. */
  line(event) {
    const box = this.tiles.canvas.getBoundingClientRect(),
      [, h, w] = this.tiles.model.shape;
    const to = [((event.clientX - box.left) / box.width) * w, ((event.clientY - box.top) / box.height) * h];
    const from = this.last ?? to;
    const steps = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
    for (let i = 1; i <= steps; i++)
      this.dab(from.map((value, axis) => value + ((to[axis] - value) * i) / steps));
    this.last = to;
  }

  dab([x, y]) {
    const [, h, w] = this.tiles.model.shape,
      r = this.radius;
    const under = [];
    for (let row = Math.max(0, Math.floor(y - r)); row <= Math.min(h - 1, y + r); row++) {
      for (let column = Math.max(0, Math.floor(x - r)); column <= Math.min(w - 1, x + r); column++) {
        const near = Math.hypot(column + 0.5 - x, row + 0.5 - y) <= r;
        if (near || (column === Math.floor(x) && row === Math.floor(y))) under.push(row * w + column);
      }
    }
    if (under.length) this.paint(under);
  }

  key(event) {
    const [, h, w] = this.tiles.model.shape;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0] };
    const way = ways[event.key];
    if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const [x, y] = this.at ?? [Math.floor(w / 2), Math.floor(h / 2)];
    this.move([clamp(x + way[0], [0, w - 1]), clamp(y + way[1], [0, h - 1])]);
    if (event.key === " " || event.shiftKey) this.dab(this.at.map((value) => value + 0.5));
  }

  move(at) {
    this.at = at;
    this.tiles.fit();
  }

  /** The pixel that the keys have reached. */
  cursor() {
    if (!this.at) return;
    const { context, zoom } = this.tiles;
    context.strokeStyle = colour("--accent");
    context.lineWidth = 2 * (window.devicePixelRatio || 1);
    context.strokeRect(this.at[0] * zoom, this.at[1] * zoom, zoom, zoom);
  }
}
