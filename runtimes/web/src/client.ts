/** A session that runs in a worker: the page stays smooth while the model computes. */
import { BundleError, readError } from "./errors.ts";
import type { Answer, Opened, Question } from "./messages.ts";
import { collect, type Generation, type Piece } from "./reply.ts";
import type { OpenOptions, RequestOptions, TextSession } from "./session.ts";

type Without<T, K extends string> = T extends unknown ? Omit<T, K> : never;
type Listener = (answer: Answer) => void;

/**
 * Open a bundle in a worker of its own; arguments and errors are those of `AtomSession.open`.
 *
 * @throws also the errors of starting a worker.
 */
export async function openInWorker(url: string, options: OpenOptions = {}): Promise<TextSession> {
  const { onProgress, signal, ...rest } = options;
  signal?.throwIfAborted();
  const absolute = (address: string): string => new URL(address, document.baseURI).href;
  if (rest.onnxruntime !== undefined) rest.onnxruntime = absolute(rest.onnxruntime);
  const connection = new Connection();
  try {
    const question = { kind: "open", url: absolute(url), options: rest } as const;
    for await (const answer of connection.ask(question, signal)) {
      if (answer.kind === "progress") onProgress?.(answer.loaded, answer.total);
      if (answer.kind === "opened") return new WorkerSession(connection, answer);
    }
    throw new BundleError("The worker ended before the bundle was open.");
  } catch (error) {
    connection.close();
    throw error;
  }
}

class WorkerSession implements TextSession {
  readonly contextLength: number;
  readonly provider: "wasm" | "webgpu";
  private readonly endIds: ReadonlySet<number>;

  constructor(
    private readonly connection: Connection,
    { contextLength, provider, endIds }: Opened,
  ) {
    this.contextLength = contextLength;
    this.provider = provider;
    this.endIds = new Set(endIds);
  }

  generate(prompt: string | readonly number[], options: RequestOptions = {}): Promise<Generation> {
    return collect(this.stream(prompt, options), this.endIds);
  }

  async *stream(
    prompt: string | readonly number[],
    { signal, ...options }: RequestOptions = {},
  ): AsyncGenerator<Piece, void> {
    for await (const answer of this.connection.ask({ kind: "stream", prompt, options }, signal)) {
      if (answer.kind !== "piece") continue;
      const piece = answer.piece;
      // The worker hears of the signal later, and may have gone on meanwhile.
      if (signal?.aborted) piece.finish_reason ??= "cancelled";
      yield piece;
      if (piece.finish_reason !== null) return;
    }
  }

  async close(): Promise<void> {
    this.connection.close();
  }
}

/** Questions to a worker, and the answers to each. */
class Connection {
  private readonly worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  private readonly listeners = new Map<number, Listener>();
  private next = 0;

  constructor() {
    this.worker.addEventListener("message", ({ data }: MessageEvent<Answer>) =>
      this.listeners.get(data.id)?.(data),
    );
    this.worker.addEventListener("error", ({ message }) => this.fail(`The worker failed: ${message}`));
  }

  /** The answers to a question, until the caller leaves the loop; then it is cancelled. */
  async *ask(question: Without<Question, "id">, signal?: AbortSignal): AsyncGenerator<Answer, void> {
    const id = this.next++;
    const waiting: Answer[] = [];
    let wake = (): void => undefined;
    this.listeners.set(id, (answer) => {
      waiting.push(answer);
      wake();
    });
    const cancel = (): void => this.send({ id: this.next++, kind: "cancel", of: id });
    this.send({ ...question, id } as Question);
    signal?.addEventListener("abort", cancel);
    if (signal?.aborted) cancel();
    try {
      for (;;) {
        if (!waiting.length) await new Promise<void>((resolve) => (wake = resolve));
        const answer = waiting.shift()!;
        if (answer.kind === "error") throw readError(answer.error);
        yield answer;
      }
    } finally {
      signal?.removeEventListener("abort", cancel);
      this.listeners.delete(id);
      cancel();
    }
  }

  close(): void {
    this.worker.terminate();
    this.fail("The session is closed.");
  }

  private send(question: Question): void {
    this.worker.postMessage(question);
  }

  private fail(message: string): void {
    const error = { name: "GenerationError", message };
    for (const [id, listen] of this.listeners) listen({ id, kind: "error", error });
  }
}
