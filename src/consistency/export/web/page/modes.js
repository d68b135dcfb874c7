"use strict";
// What the page can do. A mode has enter() and refresh(); what one began stops when another job begins.

const $ = (id) => document.getElementById(id);
const every = (n) => Array.from({ length: n }, (_, i) => i);

/** A grid of images, or a large one. */
class Samples {
  constructor(app) {
    this.app = app;
  }

  enter() {
    return this.refresh();
  }

  async refresh() {
    const { app } = this,
      { tiles, network, state } = app;
    const job = app.begin(),
      images = every(state.one ? 1 : 64);
    tiles.lay(...(state.one ? [1, 1] : [8, 8]));
    let spent = 0;
    for (let first = 0; first < images.length;) {
      const some = images.slice(first, first + network.handful),
        since = performance.now();
      const noise = noiseOf(network, state.seed, SAMPLES, some, app.rows.length);
      const x = await network.sample(noise, app.rows, app.labels(some));
      spent += performance.now() - since;
      if (!app.current(job)) return;
      tiles.show(x, first);
      first += some.length;
      app.speed(spent / first, app.rows.length);
      await pause();
    }
    tiles.canvas.ariaLabel = `${images.length} images of seed ${state.seed}`;
  }
}

/** From image to image for as long as one looks. */
class Walk {
  constructor(app) {
    Object.assign(this, { app, stop: 0, playing: !matchMedia("(prefers-reduced-motion: reduce)").matches });
    this.ends = [$("from"), $("to")].map((canvas) => new Tiles(canvas, app.network.model));
    $("share").addEventListener("input", () => this.play(false));
    $("play").addEventListener("click", () => this.play(!this.playing));
    this.play(this.playing);
  }

  play(on) {
    this.playing = on;
    $("play").textContent = on ? "Pause" : "Go on";
    $("play").ariaPressed = String(on);
  }

  enter() {
    return this.refresh();
  }

  async refresh() {
    const { app } = this,
      job = app.begin();
    for (const tiles of [app.tiles, ...this.ends]) tiles.lay(1, 1);
    Object.assign(this, { stop: 0, noise: [this.stopAt(0), this.stopAt(1)] });
    $("share").value = 0;
    await this.show();
    let before = performance.now(),
      drawn = null;
    while (app.current(job)) {
      await new Promise(requestAnimationFrame);
      const now = performance.now(),
        passed = now - before;
      before = now;
      if (this.playing) await this.onward(Math.min(passed, 100) / 3500);
      const share = Number($("share").value);
      if (!app.current(job) || share === drawn) continue;
      drawn = share;
      const x = await this.at(share);
      if (app.current(job)) app.tiles.show(x);
      app.speed(performance.now() - now, app.rows.length);
    }
  }

  /** A little further; behind the second image comes a third. */
  async onward(step) {
    const share = Number($("share").value) + step;
    if (share >= 1) {
      this.stop++;
      this.noise = [this.noise[1], this.stopAt(this.stop + 1)];
      await this.show();
    }
    $("share").value = share % 1;
  }

  stopAt(image) {
    const { network, state, rows } = this.app;
    return noiseOf(network, state.seed, SAMPLES, [image], rows.length);
  }

  at(share) {
    const { network, rows, state } = this.app,
      [a, b] = this.noise;
    return network.sample(
      a.map((z, call) => slerp(z, b[call], share)),
      rows,
      [state.label ?? 0],
    );
  }

  async show() {
    for (const share of [0, 1]) this.ends[share].show(await this.at(share));
  }
}

/** What both editors share: something to paint on, and what the model makes of it, the last wish first. */
class Editor {
  constructor(app) {
    Object.assign(this, { app, variant: 0 });
  }

  get noise() {
    const { network, state } = this.app;
    return noiseOf(network, state.seed, EDITS, [this.variant], network.model.levels.length);
  }

  /** Shows what `steps` yields, while nothing newer is asked for. */
  async follow(steps, calls) {
    const { app } = this,
      job = app.begin();
    const since = performance.now();
    let breath = since,
      x;
    for await (x of steps) {
      if (performance.now() - breath < 30) continue;
      app.result.show(x);
      await pause();
      if (!app.current(job)) return;
      breath = performance.now();
    }
    if (!app.current(job)) return;
    app.result.show(x);
    app.speed(performance.now() - since, calls);
    this.made = x;
  }
}

/** Paint over a part of an image, and it is made anew. */
class Complete extends Editor {
  constructor(app) {
    super(app);
    const [, h, w] = app.network.model.shape;
    this.known = new Uint8Array(h * w).fill(1).map((_, p) => (p % w >= w / 2 ? 0 : 1));
    this.radius = w / 12;
  }

  async enter() {
    $("task").textContent = "paint over what should be made anew";
    if (!this.y) await this.fresh();
    return this.refresh();
  }

  /** A sample to complete. */
  async fresh() {
    const { app } = this,
      { network, state } = app;
    const noise = noiseOf(network, state.seed, SAMPLES, [0], app.rows.length);
    const x = await network.sample(noise, app.rows, app.labels([0]));
    this.y = x.map((value) => clamp(value, network.model.range));
    this.variant = 0;
  }

  refresh() {
    const { app } = this,
      [channels] = app.network.model.shape;
    const known = new Uint8Array(channels * this.known.length).map(
      (_, i) => this.known[i % this.known.length],
    );
    app.paper.over = null;
    app.paper.show(this.y);
    app.paper.over = () => {
      hatch(app.paper, this.known);
      app.brush.cursor();
    };
    app.paper.over();
    app.result.over = () => outline(app.result, this.known);
    const steps = complete(app.network, this.y, known, this.noise, app.labels([0]));
    return this.follow(steps, app.network.model.levels.length);
  }

  paint(under) {
    for (const p of under) this.known[p] = 0;
  }

  clear() {
    this.known.fill(1);
  }
}

/** Draw something, and it becomes an image. */
class Draw extends Editor {
  constructor(app) {
    super(app);
    const { model } = app.network,
      [, h, w] = model.shape;
    this.radius = w / 20;
    this.empty = model.shape[0] === 1 ? model.range[0] : 0;
    this.x = new Float32Array(app.network.size).fill(this.empty);
    this.ink = Array(3).fill(model.range[1]);
    const near = (p, r) =>
      Math.abs(Math.hypot((p % w) + 0.5 - w / 2, 0.8 * (Math.floor(p / w) + 0.5 - h / 2)) - r);
    this.paint(every(h * w).filter((p) => near(p, 0.28 * w) < 0.07 * w));
    this.controls(model);
  }

  controls(model) {
    const apt = model.levels.map((row) => row.sigma).filter((sigma) => sigma > 0.1 && sigma < 20);
    const begin = model.levels.findIndex((row) => row.sigma === apt[0]);
    const best = apt.findIndex((sigma) => sigma <= 1);
    Object.assign($("freedom"), {
      min: -(begin + apt.length - 1),
      max: -begin,
      value: -(begin + Math.max(0, best)),
    });
    const say = () => {
      const { sigma } = model.levels[-$("freedom").value];
      $("freedom").ariaValueText = `noise ${sigma.toPrecision(2)}`;
    };
    $("freedom").addEventListener("input", () => (say(), this.app.refresh()));
    say();
    const grey = ["#ffffff", "#808080", "#000000"];
    const inks =
      model.shape[0] === 1 ? grey : [...grey, "#c0392b", "#d9a441", "#4f8a45", "#3f74b5", "#6b4a33"];
    choices(
      $("inks"),
      inks,
      (ink) => (this.ink = this.encoded(ink)),
      (button, ink) => {
        button.className = "swatch";
        button.style.setProperty("--swatch", ink);
        button.ariaLabel = ink;
      },
    );
  }

  encoded(ink) {
    const { offset, scale } = this.app.network.model;
    return [1, 3, 5].map((at) => (parseInt(ink.slice(at, at + 2), 16) - offset) / scale);
  }

  enter() {
    $("task").textContent = "draw here";
    return this.refresh();
  }

  refresh() {
    const { app } = this,
      begin = -$("freedom").value;
    app.result.over = null;
    app.paper.over = null;
    app.paper.show(this.x);
    app.paper.over = () => app.brush.cursor();
    app.paper.over();
    const steps = redraw(app.network, this.x, begin, this.noise, app.labels([0]));
    return this.follow(steps, app.network.model.levels.length - begin);
  }

  paint(under) {
    const [channels, h, w] = this.app.network.model.shape;
    for (const p of under) for (let c = 0; c < channels; c++) this.x[c * h * w + p] = this.ink[c];
  }

  clear() {
    this.x.fill(this.empty);
  }
}

/** Buttons of which one is pressed: the first to begin with. Returns a function that presses one. */
function choices(place, values, chosen, dress) {
  const press = (value) =>
    [...place.children].forEach((button, i) => (button.ariaPressed = String(values[i] === value)));
  for (const value of values) {
    const button = place.appendChild(document.createElement("button"));
    dress(button, value);
    button.addEventListener("click", () => (press(value), chosen(value)));
  }
  press(values[0]);
  return press;
}
