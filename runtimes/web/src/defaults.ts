/** What a bundle's generation_config.json says, with the meaning that transformers gives it. */
import { BundleError, GenerationError } from "./errors.ts";
import { type Options, parseOptions } from "./options.ts";

export type Json = Record<string, unknown>;

/** Ids that begin and end a text; empty where the bundle names none. */
export interface SpecialIds {
  begin: number[];
  end: number[];
  start: number[];
}

/** The special ids of a bundle: the generation config's, else the config's. */
export function specialIds(generationConfig: Json, config: Json): SpecialIds {
  const ids = (name: string): number[] => {
    const value = generationConfig[name] ?? config[name] ?? [];
    return (Array.isArray(value) ? value : [value]).filter((id: unknown) => Number(id) >= 0);
  };
  return {
    begin: ids("bos_token_id"),
    end: ids("eos_token_id"),
    start: ids("decoder_start_token_id"),
  };
}

/**
 * The options of a reply that its caller leaves out.
 *
 * A file that says nothing of sampling leaves the options' own defaults. As soon as it does, its
 * silence means what it means in transformers: without `do_sample` the likeliest token is taken
 * each time; with it, temperature and top-p are 1 and top-k is 50.
 *
 * @throws BundleError if a value is of the wrong type or outside its range.
 */
export function defaultOptions(stated: Json, promptTokens: number): Partial<Options> {
  const options: Json = {};
  const filters = ["temperature", "top_k", "top_p", "min_p"];
  if (["do_sample", ...filters].some((name) => stated[name] != null)) {
    options["temperature"] = stated["do_sample"] === true ? (stated["temperature"] ?? 1) : 0;
    options["top_k"] = stated["top_k"] ?? 50;
    options["top_p"] = stated["top_p"] ?? 1;
    options["min_p"] = stated["min_p"] ?? 0;
  }
  if (stated["repetition_penalty"] != null) {
    options["repetition_penalty"] = stated["repetition_penalty"];
  }
  if (stated["max_new_tokens"] != null) {
    options["max_new_tokens"] = stated["max_new_tokens"];
  } else if (typeof stated["max_length"] === "number") {
    options["max_new_tokens"] = Math.max(1, stated["max_length"] - promptTokens);
  }
  try {
    parseOptions(options);
  } catch (error) {
    if (!(error instanceof GenerationError)) throw error;
    throw new BundleError(`generation_config.json: ${error.message}`);
  }
  return options;
}
