/**
 * From logits to a token, with the numbers of `atom_edge/runtimes/sampling.py`: the same logits and
 * the same seed give the same tokens in Python, in C++ and here.
 *
 * A weight is a token's probability up to a common factor, as an integer: the likeliest has `MOST`.
 * A filter sets weights to 0 in place, never all of them.
 */
import { GenerationError } from "./errors.ts";
import type { Options } from "./options.ts";
import type { TokenLogprob } from "./reply.ts";

export type Sampler = (logits: Float32Array) => number;

const MOST = 2 ** 30;
const LOG2_E = 1.4426950408889634;
/** A polynomial for 2**f, f from -0.5 to 0.5, within 2e-7 of it: degree 0 first. */
const POWER = [1.0, 0.693147004, 0.240222424, 0.0555073358, 0.00967151299, 0.00132647285].map(
  (factor) => Math.fround(factor * MOST),
) as [number, number, number, number, number, number];
/** Adding it leaves a small number's nearest integer in the low bits. */
const ROUNDER = 1.5 * 2 ** 23;
const LOWEST = -40;

/** The function from logits `[V]` to a token that the options ask for; logits are not changed. */
export function makeChooser(options: Options, prompt: readonly number[]): Sampler {
  const sample = options.temperature === 0 ? greedy : makeSampler(options);
  if (options.repetition_penalty === 1) return sample;
  const seen = new Set(prompt);
  return (logits) => {
    const token = sample(penalizeRepetition(logits, seen, options.repetition_penalty));
    seen.add(token);
    return token;
  };
}

/** The likeliest token; the first of several equal ones. */
export function greedy(logits: Float32Array): number {
  let best = 0;
  let most = logits[0]!;
  let sum = 0; // NaN if any logit is
  for (let token = 0; token < logits.length; token++) {
    const logit = logits[token]!;
    sum += logit;
    if (logit > most) {
      most = logit;
      best = token;
    }
  }
  checkFinite(Number.isNaN(sum) && logits.some(Number.isNaN) ? NaN : most);
  return best;
}

function checkFinite(most: number): void {
  if (Number.isFinite(most)) return;
  throw new GenerationError(
    `The model's logits are not finite numbers: the greatest is ${most}. Its weights are damaged ` +
      "or overflow; validate the bundle with: atom-edge validate",
  );
}

function makeSampler(options: Options): Sampler {
  const seed = options.seed === null ? randomSeed() : BigInt(options.seed);
  let drawn = 0n;
  return (logits) => {
    const weights = toWeights(logits, options.temperature);
    if (options.top_k) keepTopK(weights, options.top_k);
    if (options.top_p < 1) keepTopP(weights, options.top_p);
    if (options.min_p) keepFrom(weights, shareOf(largest(weights), options.min_p));
    return draw(weights, randomNumber(seed, drawn++));
  };
}

function randomSeed(): bigint {
  return crypto.getRandomValues(new BigUint64Array(1))[0]!;
}

/**
 * Number `index` of a seed, both of 64 bits: from 0 to 2**64 - 1.
 *
 * Source: SplitMix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
 * OOPSLA 2014.
 */
export function randomNumber(seed: bigint, index: bigint): bigint {
  let z = BigInt.asUintN(64, seed + (index + 1n) * 0x9e3779b97f4a7c15n);
  z = BigInt.asUintN(64, (z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n);
  z = BigInt.asUintN(64, (z ^ (z >> 27n)) * 0x94d049bb133111ebn);
  return z ^ (z >> 31n);
}

/** The weights of logits `[V]`: every operation is one of float32, rounded once. */
export function toWeights(logits: Float32Array, temperature: number): Int32Array {
  const { fround } = Math;
  let most = -Infinity;
  for (const logit of logits) most = logit > most || Number.isNaN(logit) ? logit : most;
  checkFinite(most);
  const sharpness = fround(LOG2_E / temperature);
  const [p0, p1, p2, p3, p4, p5] = POWER;
  const weights = new Int32Array(logits.length);
  const float = new Float32Array(1);
  const bits = new Int32Array(float.buffer);
  for (let token = 0; token < logits.length; token++) {
    let score = Math.max(fround(fround(logits[token]! - most) * sharpness), LOWEST);
    const rounded = fround(score + ROUNDER);
    score = fround(score - fround(rounded - ROUNDER));
    let power = fround(score * p5);
    power = fround(fround(power + p4) * score);
    power = fround(fround(power + p3) * score);
    power = fround(fround(power + p2) * score);
    power = fround(fround(power + p1) * score);
    float[0] = rounded;
    const exponent = bits[0]! << 23;
    float[0] = fround(power + p0);
    bits[0] = (bits[0]! + exponent) | 0; // the whole part goes into the exponent
    weights[token] = float[0]!;
  }
  return weights;
}

/** Index of the weights at the quantile `number` / 2**64 of the distribution. */
function draw(weights: Int32Array, number: bigint): number {
  const target = Number((number * BigInt(sum(weights))) >> 64n);
  let held = 0;
  return weights.findIndex((weight) => (held += weight) > target);
}

function sum(weights: Int32Array): number {
  let total = 0;
  for (const weight of weights) total += weight;
  return total;
}

function largest(weights: Int32Array): number {
  let most = 0;
  for (const weight of weights) if (weight > most) most = weight;
  return most;
}

/** Keep the k likeliest, and all that are as likely as the last of them. */
function keepTopK(weights: Int32Array, k: number): void {
  if (k < weights.length) keepFrom(weights, weights.slice().sort()[weights.length - k]!);
}

/** Keep the fewest likeliest that hold the share p, and all that are as likely as the last. */
function keepTopP(weights: Int32Array, p: number): void {
  const whole = sum(weights);
  // Those below hold less than 1 - p together: few are left to sort.
  const least = Math.trunc(((1 - p) * whole) / weights.length);
  const ascending = weights.filter((weight) => weight >= least).sort();
  const share = shareOf(whole, p);
  let held = 0;
  let last = ascending.length;
  while (last > 0 && held < share) held += ascending[--last]!;
  keepFrom(weights, ascending[last]!);
}

/** The share p, from 0 to 1, of a whole, rounded up. */
function shareOf(whole: number, p: number): number {
  return Number(-((-BigInt(whole) * BigInt(Math.trunc(p * 2 ** 53))) >> 53n));
}

function keepFrom(weights: Int32Array, least: number): void {
  for (let token = 0; token < weights.length; token++) {
    if (weights[token]! < least) weights[token] = 0;
  }
}

/**
 * Logits with tokens that occurred less likely: positive ones are divided, others multiplied.
 *
 * Source: CTRL, Keskar et al., arXiv 1909.05858.
 */
function penalizeRepetition(
  logits: Float32Array,
  seen: Iterable<number>,
  penalty: number,
): Float32Array {
  const factor = Math.fround(penalty);
  const penalized = logits.slice();
  for (const token of seen) {
    const logit = logits[token]!;
    penalized[token] = logit > 0 ? logit / factor : logit * factor;
  }
  return penalized;
}

/** Log-probability of a token and of so many likeliest ones, under unmodified logits `[V]`. */
export function rate(logits: Float32Array, token: number, alternatives: number): TokenLogprob {
  let most = -Infinity;
  for (const logit of logits) if (logit > most) most = logit;
  let total = 0;
  for (const logit of logits) total += Math.exp(logit - most);
  const logprob = (id: number): number => logits[id]! - most - Math.log(total);
  const ids = alternatives ? [...logits.keys()] : [];
  ids.sort((a, b) => logits[b]! - logits[a]! || a - b);
  const top = ids.slice(0, alternatives).map((id) => [id, logprob(id)] as [number, number]);
  return { token_id: token, logprob: logprob(token), top };
}
