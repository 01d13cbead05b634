/** The graph in WebAssembly: its cache never leaves the module's memory. */
import { BundleError } from "./errors.ts";
import { type Cache, type CacheNames, cacheOf, type Graph, INPUTS } from "./graph.ts";
import { FLOAT32, INT64, type OnnxRuntime, type Pointer } from "./onnxruntime.ts";

export class WasmGraph implements Graph {
  readonly provider = "wasm";
  private readonly inputNames: Pointer[];
  private readonly outputNames: Pointer[];
  private readonly cache: CacheNames;
  readonly vocabulary: number;
  /** int64 `[context]` each: the tokens of a run; ones; and the positions. */
  private readonly ids: Pointer;
  private readonly ones: Pointer;
  private readonly positions: Pointer;

  private constructor(
    private readonly runtime: OnnxRuntime,
    private readonly session: Pointer,
    context: number,
  ) {
    const { inputs, outputs } = runtime.signature(session);
    const cache = cacheOf(inputs, outputs.map(({ name }) => name));
    const logits = outputs.find(({ name }) => name === "logits");
    if (!cache || !logits) {
      throw new BundleError(
        "The bundle's graph has other inputs or outputs than a graph of atom-edge. Export the " +
          "model again with: atom-edge export SNAPSHOT --target web",
      );
    }
    const pointers = new Map([...inputs, ...outputs].map(({ name, pointer }) => [name, pointer]));
    this.cache = cache;
    this.vocabulary = Number(logits.shape[2]);
    this.inputNames = [...INPUTS, ...cache.past].map((name) => pointers.get(name)!);
    this.outputNames = ["logits", ...cache.present].map((name) => pointers.get(name)!);
    this.ids = runtime.allocate(24 * context);
    this.ones = this.ids + 8 * context;
    this.positions = this.ones + 8 * context;
    runtime.write(this.ones, new Uint32Array(context).fill(1));
    runtime.write(this.positions, Uint32Array.from({ length: context }, (_, place) => place));
  }

  /** @throws BundleError for a graph that is none of a bundle. */
  static async open(runtime: OnnxRuntime, graph: Uint8Array, context: number): Promise<WasmGraph> {
    const session = await runtime.createSession(graph);
    try {
      return new WasmGraph(runtime, session, context);
    } catch (error) {
      runtime.releaseSession(session);
      throw error;
    }
  }

  newCache(): Cache {
    const { runtime } = this;
    let length = 0;
    let past = this.cache.shapes.map(([heads, width]) =>
      runtime.tensor(FLOAT32, this.ids, [1, heads, 0, width]),
    );
    const release = (): void => {
      past.forEach((tensor) => runtime.releaseTensor(tensor));
      past = [];
    };
    const append = async (tokens: readonly number[]): Promise<Float32Array> => {
      const [before, total] = [length, length + tokens.length];
      runtime.write(this.ids, tokens);
      const given = [
        runtime.tensor(INT64, this.ids, [1, tokens.length]),
        runtime.tensor(INT64, this.ones, [1, total]),
        runtime.tensor(INT64, this.positions + 8 * before, [1, tokens.length]),
      ];
      let logits: Pointer | undefined;
      try {
        const inputs = [...given, ...past];
        const run = runtime.run(this.session, this.inputNames, inputs, this.outputNames);
        const [first, ...present] = await run;
        logits = first!;
        release();
        past = present;
        length = total;
        return runtime.floats(logits, this.vocabulary).slice();
      } finally {
        given.forEach((tensor) => runtime.releaseTensor(tensor));
        if (logits) runtime.releaseTensor(logits);
      }
    };
    return { append, release };
  }

  release(): void {
    this.runtime.releaseSession(this.session);
    this.runtime.free(this.ids);
  }
}
