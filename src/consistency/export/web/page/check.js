"use strict";
// index.html#check: the browser's images beside Python's, which check.data.js holds.

/** The greatest difference of two arrays; NaN where one has none. */
function furthest(a, b) {
  return a.reduce(
    (most, value, i) => Math.max(most, Math.abs(value - b[i])),
    a.length === b.length ? 0 : NaN,
  );
}

async function floats(text) {
  return new Float32Array(await unpack(text));
}

/** Runs every sampler and one completion, and says how far they are from Python's. */
async function check(network, stored) {
  const { model, size } = network;
  const some = Array.from({ length: stored.count }, (_, i) => i);
  const labels = some.map((i) => (model.classes ? i % model.classes : 0));
  const found = {};
  let milliseconds = NaN;
  for (const steps of Object.keys(model.steps)) {
    const rows = network.rows(steps, 0);
    const noise = noiseOf(network, stored.seed, SAMPLES, some, rows.length);
    const since = performance.now();
    const x = await network.sample(noise, rows, labels);
    if (rows.length === 1) milliseconds = (performance.now() - since) / some.length;
    found[`${steps} steps`] = furthest(x, await floats(stored.samples[steps]));
  }
  for (const [steps, images] of Object.entries(stored.mixed)) {
    const noise = noiseOf(network, stored.seed, SAMPLES, some, Number(steps));
    const x = await network.sample(noise, network.rows(steps, stored.gamma), labels);
    found[`${steps} mixed`] = furthest(x, await floats(images));
  }
  const few = some.slice(0, stored.completed.count);
  const noise = noiseOf(network, stored.seed, EDITS, few, model.levels.length);
  const y = (await floats(stored.samples[1])).slice(0, few.length * size).map((v) => clamp(v, model.range));
  let last;
  for await (const x of complete(network, y, stored.completed.known, noise, labels.slice(0, few.length)))
    last = x;
  found.completion = furthest(last, await floats(stored.completed.images));
  const all = Object.values(found);
  const worst = all.some(Number.isNaN) ? NaN : Math.max(...all);
  const parts = Object.entries(found).map(([name, error]) => `${name} ${error.toExponential(1)}`);
  return (
    `max error ${worst.toExponential(1)}, ${some.length} images, ${milliseconds.toFixed(2)} ms each ` +
    `(${parts.join(", ")})`
  );
}
