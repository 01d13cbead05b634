/** Text to token ids and back, over `@huggingface/tokenizers`. */
import { Tokenizer as Inner } from "@huggingface/tokenizers";
import type { Json } from "./defaults.ts";
import { TokenizerError } from "./errors.ts";

/** Turns token ids into text one at a time; text that later ids could change is held back. */
export interface Detokenizer {
  push(token: number): string;
  /** End the text: what was held back, incomplete UTF-8 as U+FFFD. */
  flush(): string;
}

const REPLACEMENT = "\ufffd";
const LONE_SURROGATE =
  /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;

/** A `tokenizer.json`: what it does to text is decided by the file alone. */
export class Tokenizer {
  private readonly inner: Inner;
  private readonly special: ReadonlySet<number>;
  private readonly isByteLevel: boolean;

  /** @throws TokenizerError for a file that is none. */
  constructor(file: Json) {
    try {
      this.inner = new Inner(file, {});
      this.inner.encode("é × 🙂 a\n");
    } catch (error) {
      throw new TokenizerError(`tokenizer.json cannot be used in a browser: ${error}`);
    }
    const added = [...this.inner.get_added_tokens_decoder()];
    this.special = new Set(added.filter(([, token]) => token.special).map(([id]) => id));
    this.isByteLevel = (file["decoder"] as Json | null)?.["type"] === "ByteLevel";
  }

  /**
   * Token ids of a text; a special token that is written out in it becomes its id.
   *
   * @param addSpecialTokens whether to add what the file adds, most often a token that begins it.
   * @throws TokenizerError for a lone surrogate, which no valid text holds.
   */
  encode(text: string, addSpecialTokens = false): number[] {
    const at = text.search(LONE_SURROGATE);
    if (at >= 0) {
      throw new TokenizerError(`The text is not valid Unicode: lone surrogate at index ${at}.`);
    }
    return [...this.inner.encode(text, { add_special_tokens: addSpecialTokens }).ids];
  }

  /** Text of ids, without special tokens. */
  decode(ids: readonly number[]): string {
    const detokenizer = this.detokenizer();
    return ids.map((id) => detokenizer.push(id)).join("") + detokenizer.flush();
  }

  /** The id of a token; undefined if there is none. */
  id(token: string): number | undefined {
    return this.inner.token_to_id(token);
  }

  /** Start a text, or one that goes on from ids whose text is not given again. */
  detokenizer(after: readonly number[] = []): Detokenizer {
    const shown = (id: number): string | undefined =>
      this.special.has(id) ? undefined : this.inner.id_to_token(id);
    if (this.isByteLevel) return new ByteDetokenizer(shown);
    return new WindowDetokenizer(this.inner, shown, after);
  }
}

/** A byte-level vocabulary: the bytes of the tokens through an incremental UTF-8 decoder. */
class ByteDetokenizer implements Detokenizer {
  private readonly utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(private readonly token: (id: number) => string | undefined) {}

  push(id: number): string {
    return this.utf8.decode(bytesOf(this.token(id) ?? ""), { stream: true });
  }

  flush(): string {
    return this.utf8.decode();
  }
}

function bytesOf(token: string): Uint8Array<ArrayBuffer> {
  const bytes = [...token].map((character) => BYTE_OF_CHARACTER.get(character));
  if (bytes.includes(undefined)) return new TextEncoder().encode(token); // added, as it is written
  return Uint8Array.from(bytes as number[]);
}

/** GPT-2's reversible alphabet: printable bytes stand for themselves, others from U+0100 on. */
const BYTE_OF_CHARACTER = new Map<string, number>();
for (let byte = 0, rank = 0x100; byte < 256; byte++) {
  const printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  BYTE_OF_CHARACTER.set(String.fromCharCode(printable ? byte : rank++), byte);
}

/**
 * Any other decoder: decodes the last tokens with the ones before them. A replacement character at
 * the end may be the start of a longer sequence and is held back.
 */
class WindowDetokenizer implements Detokenizer {
  private before: number[];
  private fresh: number[] = [];

  constructor(
    private readonly inner: Inner,
    private readonly token: (id: number) => string | undefined,
    after: readonly number[],
  ) {
    this.before = after.filter((id) => token(id) !== undefined).slice(-1);
  }

  push(id: number): string {
    if (this.token(id) === undefined) return "";
    this.fresh.push(id);
    const text = this.text();
    return text.endsWith(REPLACEMENT) ? "" : this.give(text);
  }

  flush(): string {
    return this.fresh.length ? this.give(this.text()) : "";
  }

  private text(): string {
    const decode = (ids: number[]): string =>
      ids.length ? this.inner.decode(ids, { clean_up_tokenization_spaces: false }) : "";
    return decode([...this.before, ...this.fresh]).slice(decode(this.before).length);
  }

  private give(text: string): string {
    this.before = this.fresh;
    this.fresh = [];
    return text;
  }
}
