"use strict";
// The page itself: what is asked for, kept in the address so that a picture can be shared, and who answers.

const FIRST = { mode: "samples", seed: 1, steps: "1", gamma: 0, one: false, label: null };

class App {
  constructor(network) {
    Object.assign(this, { network, ticket: 0, state: { ...FIRST } });
    [this.tiles, this.paper, this.result] = ["picture", "paper", "result"].map(
      (id) => new Tiles($(id), network.model),
    );
    this.modes = {
      samples: new Samples(this),
      walk: new Walk(this),
      complete: new Complete(this),
      draw: new Draw(this),
    };
    this.brush = new Brush(this.paper, 1, (under) => (this.mode.paint(under), this.soon()));
    $("paper").ariaLabel = "Paint with the pointer, or with the arrow keys and the space bar";
    this.listen();
    this.calls();
    this.classes();
    this.about();
    this.read();
  }

  get mode() {
    return this.modes[this.state.mode];
  }

  get rows() {
    return this.network.rows(this.state.steps, this.state.gamma);
  }

  /** A class for each image: the one that was chosen, or all in turn. */
  labels(images) {
    return images.map((image) => this.state.label ?? image % (this.network.model.classes || 1));
  }

  begin() {
    return ++this.ticket;
  }

  current(job) {
    return job === this.ticket;
  }

  refresh() {
    this.mode.refresh().catch(failed);
  }

  /** Once, however much is painted until the next frame. */
  soon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.refresh();
    });
  }

  /** State from the address: #seed=7&steps=2&gamma=0.5&mode=walk&one=1&class=3. */
  read() {
    const said = new URLSearchParams(location.hash.slice(1)),
      { model } = this.network;
    const whole = (name, below) =>
      /^\d+$/.test(said.get(name)) && said.get(name) < below ? Number(said.get(name)) : null;
    this.state = {
      mode: Object.hasOwn(this.modes, said.get("mode")) ? said.get("mode") : FIRST.mode,
      seed: whole("seed", 2 ** 32) ?? FIRST.seed,
      steps: Object.hasOwn(model.steps, said.get("steps")) ? said.get("steps") : FIRST.steps,
      gamma: model.jumps && /^(0?\.\d+|1)$/.test(said.get("gamma")) ? Number(said.get("gamma")) : FIRST.gamma,
      one: said.get("one") === "1",
      label: whole("class", model.classes),
    };
    this.modes.complete.y = null;
    this.show();
  }

  /** Changes the state, the address and the page. */
  set(change) {
    Object.assign(this.state, change);
    if (!("mode" in change)) this.modes.complete.y = null; // that image is of the state before
    const { mode, seed, steps, gamma, one, label } = this.state;
    const said = new URLSearchParams({ seed, steps });
    if (mode !== FIRST.mode) said.set("mode", mode);
    if (gamma) said.set("gamma", gamma);
    if (one) said.set("one", 1);
    if (label !== null) said.set("class", label);
    history.replaceState(null, "", `#${said}`);
    this.show();
  }

  show() {
    const { mode, steps, gamma, one, label } = this.state;
    document.querySelector("main").dataset.mode = mode;
    for (const part of document.querySelectorAll("[data-for]")) {
      part.toggleAttribute("data-off", !part.dataset.for.split(" ").includes(mode));
    }
    for (const tab of $("tabs").children) {
      tab.ariaSelected = String(tab.dataset.mode === mode);
      tab.tabIndex = tab.dataset.mode === mode ? 0 : -1;
    }
    $("steps").value = Object.keys(this.network.model.steps).indexOf(steps);
    $("steps").ariaValueText = steps;
    $("gamma").value = gamma;
    $("one").textContent = one ? "All 64" : "One, large";
    $("one").ariaPressed = String(one);
    $("new").textContent = mode === "samples" && !one ? "New images" : "New image";
    $("hint").textContent = HINTS[mode];
    if (this.press) {
      $("classes").firstChild.hidden = mode !== "samples"; // a single image has a single class
      this.press(label ?? (mode === "samples" ? null : 0));
    }
    this.brush.radius = this.mode.radius;
    for (const tiles of [this.tiles, this.paper, this.result]) tiles.fit();
    this.mode.enter().catch(failed);
  }

  /** Milliseconds for an image, in as many digits as mean something. */
  speed(milliseconds, calls) {
    if (performance.now() - this.said < 250 && this.state.mode === "walk") return;
    this.said = performance.now();
    $("figure").textContent = `${milliseconds < 10 ? milliseconds.toFixed(2) : milliseconds.toFixed(0)} ms`;
    $("unit").textContent = `an image, ${calls} network ${calls === 1 ? "call" : "calls"}`;
  }

  fresh() {
    this.set({ seed: crypto.getRandomValues(new Uint32Array(1))[0] });
  }

  listen() {
    for (const tab of $("tabs").children)
      tab.addEventListener("click", () => this.set({ mode: tab.dataset.mode }));
    $("tabs").addEventListener("keydown", (event) => {
      const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!way) return;
      const tabs = [...$("tabs").children],
        now = tabs.findIndex((tab) => tab.dataset.mode === this.state.mode);
      const next = tabs[(now + way + tabs.length) % tabs.length];
      next.focus();
      next.click();
      event.stopPropagation();
    });
    $("picture").addEventListener("click", () => this.fresh());
    $("new").addEventListener("click", () => this.fresh());
    $("one").addEventListener("click", () => this.set({ one: !this.state.one }));
    $("steps").addEventListener("input", () =>
      this.set({ steps: Object.keys(this.network.model.steps)[$("steps").value] }),
    );
    $("gamma").addEventListener("input", () => this.set({ gamma: Number($("gamma").value) }));
    $("again").addEventListener("click", () => (this.mode.variant++, this.refresh()));
    $("clear").addEventListener("click", () => (this.mode.clear(), this.refresh()));
    $("hand").addEventListener("click", () => {
      this.modes.complete.y = this.modes.draw.x.slice();
      this.set({ mode: "complete" });
    });
    $("reset").addEventListener("click", () => (history.replaceState(null, "", "#"), location.reload()));
    addEventListener("hashchange", () => (location.hash === "#check" ? location.reload() : this.read()));
    addEventListener("keydown", (event) => this.key(event));
  }

  /** Any key makes new images, but for those that mean something where they are pressed. */
  key(event) {
    const silent = event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented;
    const moving = /^(Tab|Shift|Control|Alt|Meta|Escape|CapsLock|F\d+|Arrow.*|Page.*|Home|End)$/.test(
      event.key,
    );
    const at = event.target;
    const pressing = at.matches?.("button, a") && (event.key === " " || event.key === "Enter");
    if (silent || moving || pressing) return;
    event.preventDefault();
    if (this.state.mode === "draw") (this.mode.variant++, this.refresh());
    else this.fresh();
  }

  /** The numbers of calls on the slider; jumps of a flow map may take fresh noise. */
  calls() {
    const { steps, jumps } = this.network.model,
      counts = Object.keys(steps);
    $("steps").max = counts.length - 1;
    for (const count of counts)
      $("counts").appendChild(document.createElement("span")).textContent = count;
    $("fresh").hidden = !jumps;
  }

  classes() {
    const { classes } = this.network.model;
    if (!classes) return;
    $("class").hidden = false;
    this.press = choices(
      $("classes"),
      [null, ...every(classes)],
      (label) => this.set({ label }),
      (button, label) => {
        button.textContent = label ?? "all";
      },
    );
  }

  about() {
    const { about } = this.network.model;
    for (const part of about) $("about").appendChild(document.createElement("span")).textContent = part;
    const licence = $("about")
      .appendChild(document.createElement("span"))
      .appendChild(document.createElement("a"));
    Object.assign(licence, { href: "LICENCE.onnxruntime.txt", textContent: "runs on onnxruntime-web" });
    document.title = about[0];
    document.querySelector("h1").textContent = about[0];
  }
}

const HINTS = {
  samples: "Any key, or a tap on the images, makes new ones. More calls, same noise.",
  walk: "From noise to noise along a great circle, one image for each frame.",
  complete: "The left image stays as it is where you do not paint.",
  draw: "Noise of the chosen level is laid over your drawing, and the model takes it away.",
};

function failed(error) {
  console.error(error);
  $("figure").textContent = "–";
  $("unit").textContent =
    typeof DecompressionStream === "undefined"
      ? "this browser is too old for the page: it knows no DecompressionStream"
      : String(error.message ?? error);
}

async function start() {
  const network = await Network.open(MODEL, { ...RUNTIME, network: PACKED });
  if (location.hash !== "#check") return new App(network);
  const script = document.body.appendChild(document.createElement("script"));
  const loaded = new Promise((done, no) =>
    Object.assign(script, { onload: done, onerror: () => no(new Error("no check.data.js")) }),
  );
  script.src = "check.data.js";
  await loaded;
  $("check").hidden = false;
  document.querySelector("main").hidden = true;
  $("check").textContent = await check(network, CHECK);
}

start().catch((error) => {
  failed(error);
  $("check").textContent = `failed: ${error.message ?? error}`;
});
