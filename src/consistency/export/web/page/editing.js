"use strict";
// Editing with a network call per level (2303.01469, algorithm 4): re-noise, denoise, put back what is known.
// Both yield after each level what the image is by then. `noise[call]` is unit noise, as long as x.

const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));

/** f of x re-noised to the level of a row, inside the range of pixels. */
async function renoised(network, x, row, z, labels) {
  const noisy = x.map((value, i) => value + row.added * z[i]);
  const y = await network.denoise(noisy, row, labels);
  return y.map((value) => clamp(value, network.model.range));
}

/** Completes images y where `known`, which is of one image's size, is 0; the rest stays as it is. */
async function* complete(network, y, known, noise, labels) {
  const n = network.size;
  let x = y.map((value, i) => (known[i % n] ? value : 0));
  for (const [call, row] of network.model.levels.entries()) {
    const guess = await renoised(network, x, row, noise[call], labels);
    x = guess.map((value, i) => (known[i % n] ? y[i] : value));
    yield x;
  }
}

/** Makes images out of paintings x, from level `begin` on down (SDEdit, 2108.01073). */
async function* redraw(network, x, begin, noise, labels) {
  for (const [call, row] of network.model.levels.slice(begin).entries()) {
    x = await renoised(network, x, row, noise[call], labels);
    yield x;
  }
}
