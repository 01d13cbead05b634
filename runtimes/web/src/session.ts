/** A bundle, loaded: text in, text out. */
import { type Bundle, fetchBundle, type Progress } from "./bundle.ts";
import { defaultOptions, specialIds } from "./defaults.ts";
import { GenerationError, shown } from "./errors.ts";
import type { Graph } from "./graph.ts";
import { CDN, OnnxRuntime } from "./onnxruntime.ts";
import { type Options, parseOptions } from "./options.ts";
import { collect, type Generation, type Piece } from "./reply.ts";
import { makeChooser, rate } from "./sampling.ts";
import { TextStream } from "./text.ts";
import { Tokenizer } from "./tokenizer.ts";
import { WasmGraph } from "./wasm.ts";
import { WebGpuGraph } from "./webgpu.ts";

/** How a bundle is opened. */
export interface OpenOptions {
  /** "wasm" (the default); or "webgpu", which is an error where it cannot be had. */
  provider?: "wasm" | "webgpu";
  /** Of WebAssembly, 1 if left out; more need a page that is cross-origin isolated. */
  threads?: number;
  /** The URL of the folder with the files of onnxruntime-web; a CDN if left out. */
  onnxruntime?: string;
  /** Told how much of the bundle has come. */
  onProgress?: Progress;
  /** Gives the download up. */
  signal?: AbortSignal;
}

/** What a reply may have beside the options of `generate` in Python. */
export type RequestOptions = Partial<Options> & { signal?: AbortSignal };

/** What a session of this thread, and one of a worker, can do. */
export interface TextSession {
  /** The longest sequence, prompt and reply together, in tokens. */
  readonly contextLength: number;
  /** Where it runs. */
  readonly provider: "wasm" | "webgpu";
  /** Continue a text, or token ids, and return the whole reply. */
  generate(prompt: string | readonly number[], options?: RequestOptions): Promise<Generation>;
  /** Continue a text, or token ids; one piece for each token of the reply. */
  stream(prompt: string | readonly number[], options?: RequestOptions): AsyncGenerator<Piece, void>;
  /** Free its memory. */
  close(): Promise<void>;
}

const END_OF_TEXT = "<|endoftext|>";
/** Milliseconds that a reply may keep the thread from other work: half a frame. */
const SLICE = 8;

/**
 * A model that is ready to continue text.
 *
 * Of a prompt longer than the context the end is kept. A signal that aborts ends a reply with the
 * finish reason "cancelled". Replies may run at the same time: each has a cache of its own.
 */
export class AtomSession implements TextSession {
  readonly tokenizer: Tokenizer;
  readonly contextLength: number;
  readonly endIds: ReadonlySet<number>;
  private readonly beginning: number[];

  private constructor(
    private readonly bundle: Bundle,
    private readonly graph: Graph,
  ) {
    this.tokenizer = new Tokenizer(bundle.tokenizer);
    this.contextLength = bundle.contextLength;
    const ids = specialIds(bundle.generationConfig, bundle.config);
    this.endIds = new Set(ids.end);
    const endOfText = this.tokenizer.id(END_OF_TEXT);
    const stated = endOfText === undefined ? [] : [endOfText];
    this.beginning = [...ids.start, ...stated, ...ids.begin, ...ids.end].slice(0, 1);
  }

  /**
   * Download, verify and load a bundle.
   *
   * @param url of its folder; a relative one is relative to the page.
   * @throws BundleError, ProviderError, TokenizerError; or the signal's reason once it aborts.
   */
  static async open(url: string, options: OpenOptions = {}): Promise<AtomSession> {
    const { provider = "wasm", threads = 1, onnxruntime = CDN, onProgress, signal } = options;
    const folder = new URL(onnxruntime, globalThis.location?.href).href;
    const loading = provider === "wasm" ? OnnxRuntime.load(folder, threads) : undefined;
    loading?.catch(() => undefined); // said below, after what is wrong with the bundle
    const bundle = await fetchBundle(url, onProgress, signal);
    const graph = loading
      ? await WasmGraph.open(await loading, bundle.graph, bundle.contextLength)
      : await WebGpuGraph.open(folder, bundle.graph);
    return new AtomSession({ ...bundle, graph: new Uint8Array() }, graph);
  }

  get provider(): "wasm" | "webgpu" {
    return this.graph.provider;
  }

  generate(prompt: string | readonly number[], options: RequestOptions = {}): Promise<Generation> {
    return collect(this.stream(prompt, options), this.endIds);
  }

  /** Prompt and options are checked at once; the model runs as the pieces are asked for. */
  stream(
    prompt: string | readonly number[],
    { signal, ...options }: RequestOptions = {},
  ): AsyncGenerator<Piece, void> {
    const all = this.encode(prompt);
    const truncated = Math.max(0, all.length - (this.contextLength - 1));
    const ids = all.slice(truncated);
    const defaults = defaultOptions(this.bundle.generationConfig, ids.length);
    const chosen = parseOptions({ ...defaults, ...withoutUndefined(options) });
    return this.reply(ids, chosen, truncated, signal);
  }

  async close(): Promise<void> {
    await this.graph.release();
  }

  private encode(prompt: string | readonly number[]): number[] {
    const ids = typeof prompt === "string" ? this.tokenizer.encode(prompt, true) : prompt;
    if (!Array.isArray(ids)) {
      throw new GenerationError(
        `The prompt is ${shown(prompt)}; it must be a text or an array of token ids.`,
      );
    }
    const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= this.vocabulary);
    if (wrong !== undefined) {
      throw new GenerationError(
        `The prompt holds the token id ${shown(wrong)}, and those of the model are 0 to ` +
          `${this.vocabulary - 1}.`,
      );
    }
    if (ids.length) return ids;
    if (this.beginning.length) return this.beginning;
    throw new GenerationError(
      "The prompt is empty, and the bundle names no token that begins a document.",
    );
  }

  private get vocabulary(): number {
    return this.graph.vocabulary;
  }

  private async *reply(
    prompt: number[],
    options: Options,
    truncated: number,
    signal?: AbortSignal,
  ): AsyncGenerator<Piece, void> {
    const started = performance.now();
    const stop = typeof options.stop === "string" ? [options.stop] : options.stop;
    const text = new TextStream(this.tokenizer, prompt, stop);
    const choose = makeChooser(options, prompt);
    const room = Math.min(options.max_new_tokens, this.contextLength - prompt.length);
    const cache = this.graph.newCache();
    let [count, first, busySince] = [0, 0, started];
    const piece: Piece = {
      text: "",
      token_id: 0,
      logprob: null,
      prompt_tokens: prompt.length,
      generation_tokens: 0,
      prompt_seconds: 0,
      generation_seconds: 0,
      finish_reason: null,
      truncated_tokens: truncated,
    };
    try {
      for (let tokens = prompt; ; tokens = [piece.token_id]) {
        const logits = await cache.append(tokens);
        if (!first) piece.prompt_seconds = (performance.now() - started) / 1000;
        piece.token_id = choose(logits);
        if (options.logprobs !== null) {
          piece.logprob = rate(logits, piece.token_id, options.logprobs);
        }
        const now = performance.now();
        first ||= now;
        piece.generation_seconds = (now - first) / 1000;
        if (this.endIds.has(piece.token_id)) {
          piece.text = text.flush();
          piece.finish_reason = "stop";
        } else {
          piece.generation_tokens = ++count;
          piece.text = text.push(piece.token_id);
          if (count === room) {
            piece.text += text.flush();
            piece.finish_reason = "length";
          }
        }
        if (text.stopped) piece.finish_reason = "stop";
        if (now - busySince > SLICE) {
          await nextTask();
          busySince = performance.now();
        }
        if (signal?.aborted) piece.finish_reason ??= "cancelled";
        yield { ...piece };
        if (piece.finish_reason !== null) return;
      }
    } finally {
      cache.release();
    }
  }
}

function withoutUndefined(options: Partial<Options>): Partial<Options> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

/** Let the page draw and react, without the least delay that a timer has. */
function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
