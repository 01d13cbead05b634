/** What comes out of a generation: pieces as they come, and the whole reply; as in Python. */

export type FinishReason = "stop" | "length" | "cancelled";

/** How likely a token was, under the model's own distribution: no temperature, no filter. */
export interface TokenLogprob {
  /** The token that was chosen. */
  token_id: number;
  /** Its natural log-probability. */
  logprob: number;
  /** Id and log-probability of the likeliest tokens, the likeliest first. */
  top: [token_id: number, logprob: number][];
}

/** One step of a reply: one token, and the text that became certain with it. */
export interface Piece {
  /** Often empty: incomplete UTF-8 and what may become a stop text are held back. */
  text: string;
  /** The token; an end-of-sequence token comes last and has no text. */
  token_id: number;
  /** As asked for, else null. */
  logprob: TokenLogprob | null;
  /** Tokens of the prompt that the model saw. */
  prompt_tokens: number;
  /** Tokens of the reply so far, an end-of-sequence token not counted. */
  generation_tokens: number;
  /** Time from the request to the first logits. */
  prompt_seconds: number;
  /** Time from the first token to this one. */
  generation_seconds: number;
  /**
   * null but for the last piece: "stop" at an end-of-sequence token or a stop text, "length" at
   * `max_new_tokens` or at the end of the context, "cancelled" by the caller.
   */
  finish_reason: FinishReason | null;
  /** Tokens of the prompt that were dropped at its start. */
  truncated_tokens: number;
}

/** A whole reply. */
export interface Generation {
  /** Without the prompt and without a stop text. */
  text: string;
  /** Its tokens, those of a stop text included, an end-of-sequence token not. */
  token_ids: number[];
  finish_reason: FinishReason;
  prompt_tokens: number;
  truncated_tokens: number;
  generation_tokens: number;
  /** Prompt tokens a second. */
  prompt_tps: number;
  /** Tokens a second after the first one. */
  generation_tps: number;
  /** One for each of `token_ids`; null unless asked for. */
  logprobs: TokenLogprob[] | null;
}

/** Join the pieces of a reply. */
export async function collect(
  pieces: AsyncIterable<Piece>,
  endIds: ReadonlySet<number>,
): Promise<Generation> {
  const tokens: number[] = [];
  const logprobs: TokenLogprob[] = [];
  let text = "";
  let last: Piece | undefined;
  for await (const piece of pieces) {
    text += piece.text;
    if (!endIds.has(piece.token_id)) {
      tokens.push(piece.token_id);
      if (piece.logprob) logprobs.push(piece.logprob);
    }
    last = piece;
  }
  const { prompt_tokens, truncated_tokens, generation_tokens, finish_reason } = last!;
  return {
    text,
    token_ids: tokens,
    finish_reason: finish_reason!,
    prompt_tokens,
    truncated_tokens,
    generation_tokens,
    prompt_tps: last!.prompt_seconds ? prompt_tokens / last!.prompt_seconds : 0,
    generation_tps: generationTps(last!),
    logprobs: last!.logprob && logprobs,
  };
}

/** Tokens a second after the first one, which belongs to the prompt's time; 0 if alone. */
export function generationTps(piece: Piece): number {
  const following = piece.generation_tokens - 1;
  return following > 0 ? following / piece.generation_seconds : 0;
}
