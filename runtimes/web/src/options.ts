/** What a caller may ask of a generation, parsed before any work is done. */
import { GenerationError, shown } from "./errors.ts";

/** How a reply is chosen and when it ends; names, meanings and ranges are those of Python. */
export interface Options {
  /** Maximum tokens in the reply, at least 1. */
  max_new_tokens: number;
  /** Divides the logits; 0 takes the likeliest token each time (greedy). */
  temperature: number;
  /** Sample among the k likeliest tokens; 0 for all. */
  top_k: number;
  /** Sample among the likeliest tokens that hold this share together; 1 for all. */
  top_p: number;
  /** Sample among tokens at least this many times as likely as the likeliest; 0 for all. */
  min_p: number;
  /** Above 1, tokens of the prompt and of the reply become less likely. */
  repetition_penalty: number;
  /** With it the same request repeats exactly; null for another reply each time. */
  seed: number | bigint | null;
  /** One text or several that end the reply; they are not part of it. */
  stop: string | readonly string[];
  /** null for none; N for the log-probability of each token and of the N likeliest. */
  logprobs: number | null;
}

const DEFAULTS: Options = {
  max_new_tokens: 128,
  temperature: 0.8,
  top_k: 0,
  top_p: 0.95,
  min_p: 0,
  repetition_penalty: 1,
  seed: null,
  stop: [],
  logprobs: null,
};

type Rule = [holds: (value: unknown) => boolean, mustBe: string];

const integer = (low: number, mustBe: string): Rule => [
  (value) => Number.isInteger(value) && (value as number) >= low && (value as number) <= 2 ** 31,
  `an integer, ${mustBe}`,
];
const number = (holds: (value: number) => boolean, mustBe: string): Rule => [
  (value) => typeof value === "number" && Number.isFinite(value) && holds(value),
  `a number, ${mustBe}`,
];
const optional = ([holds, mustBe]: Rule): Rule => [
  (value) => value === null || holds(value),
  `${mustBe}, or null`,
];
const isText = (value: unknown): boolean => typeof value === "string" && value.length > 0;

const RULES: Record<keyof Options, Rule> = {
  max_new_tokens: integer(1, "at least 1"),
  temperature: number((t) => t === 0 || (t >= 1e-9 && t <= 1e9), "0 (greedy) or from 1e-9 to 1e9"),
  top_k: integer(0, "0 (all) or above"),
  top_p: number((p) => p > 0 && p <= 1, "above 0 and at most 1"),
  min_p: number((p) => p >= 0 && p <= 1, "from 0 to 1"),
  repetition_penalty: number((p) => p >= 1e-3 && p <= 1e3, "from 0.001 to 1000"),
  seed: [isSeed, "an integer, 0 or above and below 2**64, or null; above 2**53 a bigint"],
  stop: [
    (value) => (Array.isArray(value) ? value.every(isText) : isText(value)),
    "a text or an array of texts, each of at least one character",
  ],
  logprobs: optional(integer(0, "0 or above")),
};

function isSeed(value: unknown): boolean {
  if (typeof value === "bigint") return value >= 0n && value < 2n ** 64n;
  return value === null || (Number.isSafeInteger(value) && (value as number) >= 0);
}

/**
 * The options of these names, and defaults for the others; undefined is as good as left out.
 *
 * @throws GenerationError for a name that is no option, or a wrong value.
 */
export function parseOptions(given: Partial<Options>): Options {
  const stated = Object.entries(given).filter(([, value]) => value !== undefined);
  for (const [name, value] of stated) {
    if (!Object.hasOwn(RULES, name)) {
      throw new GenerationError(
        `There is no option ${shown(name)}. The options are ${Object.keys(RULES).join(", ")}.`,
      );
    }
    const [holds, mustBe] = RULES[name as keyof Options];
    if (!holds(value)) throw new GenerationError(`${name} is ${shown(value)}; it must be ${mustBe}.`);
  }
  return { ...DEFAULTS, ...Object.fromEntries(stated) };
}
