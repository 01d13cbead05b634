/** Tokens to shown text: streaming detokenization, and stop texts that may span tokens. */
import type { Tokenizer } from "./tokenizer.ts";

/**
 * Gives out text as soon as it is certain that it is part of the reply.
 *
 * Of several stop texts, the one that ends first ends the reply, and the longest of those that end
 * there; the text does not depend on how the tokens cut it.
 */
export class TextStream {
  /** Whether a stop text came; then every further text is empty. */
  stopped = false;
  private held = "";
  private readonly detokenizer;

  constructor(
    tokenizer: Tokenizer,
    prompt: readonly number[],
    private readonly stop: readonly string[],
  ) {
    this.detokenizer = tokenizer.detokenizer(prompt);
  }

  /** Take a token; the text that may be shown now. */
  push(token: number): string {
    return this.filter(this.detokenizer.push(token));
  }

  /** End the reply; the text that was held back. */
  flush(): string {
    const text = this.filter(this.detokenizer.flush()) + this.held;
    this.held = "";
    return text;
  }

  private filter(piece: string): string {
    if (this.stopped) return "";
    if (!this.stop.length) return piece;
    const text = this.held + piece;
    const [first] = this.stop
      .map((stop) => ({ start: text.indexOf(stop), end: text.indexOf(stop) + stop.length }))
      .filter(({ start }) => start >= 0)
      .sort((a, b) => a.end - b.end || a.start - b.start);
    if (first) {
      this.stopped = true;
      this.held = "";
      return text.slice(0, first.start);
    }
    const kept = this.couldStop(text);
    this.held = text.slice(text.length - kept);
    return text.slice(0, text.length - kept);
  }

  /** Length of the longest end of `text` that is the beginning of a stop text. */
  private couldStop(text: string): number {
    const most = Math.max(...this.stop.map((stop) => stop.length - 1));
    for (let length = Math.min(most, text.length); length > 0; length--) {
      const end = text.slice(text.length - length);
      if (this.stop.some((stop) => stop.startsWith(end))) return length;
    }
    return 0;
  }
}
