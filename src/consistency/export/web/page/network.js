"use strict";
// The network and what its output means: f(x, σ) = skip x + out F(inp x, noise), coefficients by level standing
// in model.data.js. A flow map has F(inp x, noise, h) and leads to level s: keep x + (1 - keep) f with keep = s/σ.
// Images are Float32Arrays in units of the data, one behind another.

/** Lets the browser draw and listen. */
const pause = () => new Promise((done) => setTimeout(done));

/** The bytes of a packed file, which is gzip in base64. */
async function unpack(text) {
  const packed = Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const bytes = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(bytes).arrayBuffer();
}

class Network {
  /** Starts the runtime, without a server: module and program come out of runtime.data.js. */
  static async open(model, packed) {
    const [script, program, weights] = await Promise.all(
      [packed.script, packed.program, packed.network].map(unpack),
    );
    const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    const ort = await import(url);
    URL.revokeObjectURL(url);
    ort.env.logLevel = "error";
    ort.env.wasm.wasmBinary = program;
    ort.env.wasm.numThreads = 1; // more would take a server that isolates the page
    const session = await ort.InferenceSession.create(new Uint8Array(weights));
    return new Network(model, ort, session);
  }

  constructor(model, ort, session) {
    Object.assign(this, { model, ort, session });
    this.size = model.shape.reduce((a, b) => a * b);
    this.pace = 5; // milliseconds a call for one image, as last measured
    this.turn = Promise.resolve(); // a session runs one call at a time
  }

  /** Coefficients of each call; gamma is the share of fresh noise between the jumps of a flow map. */
  rows(steps, gamma) {
    const { jumps } = this.model;
    return jumps ? jumpRows(this.model.steps[steps], gamma, jumps.data) : this.model.steps[steps];
  }

  /** f(x, σ) of a batch; row holds the coefficients of σ, labels a class for each image. */
  async denoise(x, row, labels) {
    const batch = x.length / this.size;
    const { Tensor } = this.ort;
    const feeds = {
      x: new Tensor(
        "float32",
        x.map((value) => row.inp * value),
        [batch, ...this.model.shape],
      ),
      noise: new Tensor("float32", new Float32Array(batch).fill(row.noise), [batch]),
    };
    if (this.model.jumps) feeds.h = new Tensor("float32", new Float32Array(batch).fill(row.h ?? 0), [batch]);
    if (this.model.classes) feeds.label = new Tensor("int64", BigInt64Array.from(labels, BigInt), [batch]);
    this.turn = this.turn.catch(() => {}).then(() => this.run(feeds, batch));
    const F = await this.turn;
    return x.map((value, i) => row.skip * value + row.out * F[i]);
  }

  async run(feeds, batch) {
    const since = performance.now();
    const { F } = await this.session.run(feeds);
    this.pace = Math.max(0.01, (performance.now() - since) / batch);
    return F.data;
  }

  /** Images from unit noise, one array of noise for each row (2303.01469, algorithm 1; 2310.02279, γ-sampling). */
  async sample(noise, rows, labels) {
    let x = new Float32Array(noise[0].length);
    for (const [k, row] of rows.entries()) {
      const noisy = row.added ? x.map((value, i) => value + row.added * noise[k][i]) : x,
        keep = row.keep ?? 0;
      const y = await this.denoise(noisy, row, labels);
      x = keep ? y.map((value, i) => keep * noisy[i] + (1 - keep) * value) : y;
    }
    return x;
  }

  /** As many images as a call makes without holding the page up. */
  get handful() {
    return Math.min(64, Math.max(1, Math.floor(25 / this.pace)));
  }
}

/** Rows of a flow map: each call leads to s √(1 - γ²) below its level, where the next begins with γ s of noise. */
function jumpRows(rows, gamma, data) {
  return rows.map((row, k) => {
    const s = rows[k + 1]?.sigma ?? 0,
      end = s * Math.sqrt(1 - gamma ** 2);
    const added = k ? gamma * row.sigma : row.sigma;
    return { ...row, added, keep: end / row.sigma, h: Math.atan(end / data) / Math.atan(row.sigma / data) };
  });
}

/** The noise of some images of a seed, one array for each of `calls`. */
function noiseOf(network, seed, purpose, images, calls) {
  return Array.from({ length: calls }, (_, call) => {
    const z = new Float32Array(images.length * network.size);
    images.forEach((image, i) => z.set(normals(seed, purpose, image, call, network.size), i * network.size));
    return z;
  });
}
