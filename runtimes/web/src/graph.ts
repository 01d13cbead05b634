/** What runs the graph of a bundle. */

/** One sequence: the keys and values of its tokens. */
export interface Cache {
  /**
   * Append tokens.
   *
   * @returns logits `[V]` of what follows; valid until the next call on the graph.
   */
  append(tokens: readonly number[]): Float32Array | Promise<Float32Array>;
  /** Free its memory. */
  release(): void;
}

export interface Graph {
  /** Where it runs. */
  readonly provider: "wasm" | "webgpu";
  /** Number of tokens that it gives logits for. */
  readonly vocabulary: number;
  newCache(): Cache;
  /** Free its memory; no cache of it may be used any more. */
  release(): Promise<void> | void;
}

/** A tensor's name, and its shape: a name for a size that the caller chooses. */
export interface Signature {
  name: string;
  shape: readonly (number | string)[];
}

/** The names of a graph's cache, and the shape of each part. */
export interface CacheNames {
  past: string[];
  present: string[];
  shapes: [heads: number, width: number][];
}

/** What a graph must have beside its cache. */
export const INPUTS = ["input_ids", "attention_mask", "position_ids"] as const;

/** The cache of a graph with these inputs; null for a graph of another kind. */
export function cacheOf(inputs: readonly Signature[], outputs: readonly string[]): CacheNames | null {
  const parts = inputs.filter(({ name }) => name.startsWith("past_key_values."));
  const past = parts.map(({ name }) => name);
  const present = past.map((name) => name.replace("past_key_values", "present"));
  const shapes = parts.map(({ shape }) => [Number(shape[1]), Number(shape[3])] as [number, number]);
  const expected = new Set<string>([...INPUTS, ...past]);
  const fits =
    past.length > 0 &&
    inputs.length === expected.size &&
    inputs.every(({ name }) => expected.has(name)) &&
    ["logits", ...present].every((name) => outputs.includes(name)) &&
    shapes.flat().every((size) => size > 0);
  return fits ? { past, present, shapes } : null;
}
