"use strict";
// Noise as a function of what it is for: Philox 4x32-10 (Salmon et al. 2011) and Box-Muller.
// noise.py draws the very same numbers, so that a picture is known by its seed alone.

const SAMPLES = 0;
const EDITS = 1;

/** The high 32 bits of the product of two unsigned words. */
function high(a, b) {
  const a0 = a & 0xffff,
    a1 = a >>> 16,
    b0 = b & 0xffff,
    b1 = b >>> 16;
  const middle = a1 * b0 + ((a0 * b0) >>> 16);
  const other = a0 * b1 + (middle & 0xffff);
  return (a1 * b1 + (middle >>> 16) + (other >>> 16)) >>> 0;
}

/** Four random words of a counter of four words and a key of two. */
function philox([c0, c1, c2, c3], [k0, k1]) {
  for (let round = 0; round < 10; round++) {
    const high0 = high(0xd2511f53, c0),
      low0 = Math.imul(0xd2511f53, c0);
    const high1 = high(0xcd9e8d57, c2),
      low1 = Math.imul(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0];
    k0 = (k0 + 0x9e3779b9) | 0;
    k1 = (k1 + 0xbb67ae85) | 0;
  }
  return [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0];
}

/** n standard normal numbers of one image and one network call; purpose is SAMPLES or EDITS. */
function normals(seed, purpose, image, call, n) {
  const z = new Float32Array(n);
  for (let i = 0; i < n; i += 4) {
    const words = philox([i / 4, call, image, purpose], [seed, 0]);
    for (let pair = 0; pair < 4; pair += 2) {
      const radius = Math.sqrt(-2 * Math.log((words[pair] + 0.5) / 2 ** 32));
      const angle = (2 * Math.PI * words[pair + 1]) / 2 ** 32;
      if (i + pair < n) z[i + pair] = radius * Math.cos(angle);
      if (i + pair + 1 < n) z[i + pair + 1] = radius * Math.sin(angle);
    }
  }
  return z;
}

/** Unit noise between a and b along their great circle; share 0 is a, 1 is b. */
function slerp(a, b, share) {
  let aa = 0,
    bb = 0,
    ab = 0;
  for (let i = 0; i < a.length; i++) {
    aa += a[i] * a[i];
    bb += b[i] * b[i];
    ab += a[i] * b[i];
  }
  const angle = Math.acos(Math.min(1, Math.max(-1, ab / Math.sqrt(aa * bb))));
  const straight = Math.sin(angle) < 1e-6; // so short that a line will do
  const first = straight ? 1 - share : Math.sin((1 - share) * angle) / Math.sin(angle);
  const second = straight ? share : Math.sin(share * angle) / Math.sin(angle);
  return a.map((value, i) => first * value + second * b[i]);
}
