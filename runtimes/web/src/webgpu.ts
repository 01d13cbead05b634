/** The graph on a GPU, through the JavaScript of onnxruntime-web; its cache stays on the GPU. */
import type { InferenceSession, Tensor } from "onnxruntime-web/webgpu";
import { BundleError, ProviderError } from "./errors.ts";
import { type Cache, type CacheNames, cacheOf, type Graph } from "./graph.ts";

type Ort = typeof import("onnxruntime-web/webgpu");

export class WebGpuGraph implements Graph {
  readonly provider = "webgpu";
  /** A session runs one thing at a time. */
  private last: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly ort: Ort,
    private readonly session: InferenceSession,
    private readonly cache: CacheNames,
    readonly vocabulary: number,
  ) {}

  /**
   * @param folder the URL of the files of onnxruntime-web.
   * @throws ProviderError where there is no WebGPU; BundleError for a graph that is none of a bundle.
   */
  static async open(folder: string, graph: Uint8Array): Promise<WebGpuGraph> {
    if (!("gpu" in navigator)) {
      throw new ProviderError("This browser has no WebGPU here. Open the bundle with provider: 'wasm'.");
    }
    const ort = await load(folder);
    const present = (layer: number): string[] => [`present.${layer}.key`, `present.${layer}.value`];
    let session: InferenceSession;
    try {
      const plain = { executionProviders: ["webgpu"], logSeverityLevel: 3 } as const;
      session = await ort.InferenceSession.create(graph, plain);
      const layers = session.outputNames.filter((name) => name.endsWith(".key")).length;
      const names = Array.from({ length: layers }, (_, layer) => present(layer)).flat();
      const places = Object.fromEntries(names.map((name) => [name, "gpu-buffer" as const]));
      await session.release();
      session = await ort.InferenceSession.create(graph, {
        ...plain,
        preferredOutputLocation: { ...places, logits: "cpu" },
      });
    } catch (error) {
      throw new ProviderError(`The graph does not run on WebGPU: ${error}. Use provider: 'wasm'.`);
    }
    const inputs = session.inputMetadata.map((value) => ({
      name: value.name,
      shape: value.isTensor ? value.shape : [],
    }));
    const cache = cacheOf(inputs, session.outputNames);
    const logits = session.outputMetadata.find(({ name }) => name === "logits");
    if (!cache || !logits?.isTensor) {
      throw new BundleError("The bundle's graph is none of atom-edge. Export the model again.");
    }
    return new WebGpuGraph(ort, session, cache, Number(logits.shape[2]));
  }

  newCache(): Cache {
    const { Tensor } = this.ort;
    let length = 0;
    let past: Tensor[] = this.cache.shapes.map(
      ([heads, width]) => new Tensor("float32", new Float32Array(), [1, heads, 0, width]),
    );
    const release = (): void => {
      past.forEach((tensor) => tensor.dispose());
      past = [];
    };
    const append = async (tokens: readonly number[]): Promise<Float32Array> => {
      const [before, total] = [length, length + tokens.length];
      const int64 = (values: readonly number[] | BigInt64Array): Tensor => {
        const data = BigInt64Array.from(values as number[], BigInt);
        return new Tensor("int64", data, [1, data.length]);
      };
      const feeds: Record<string, Tensor> = {
        input_ids: int64(tokens),
        attention_mask: int64(new BigInt64Array(total).fill(1n)),
        position_ids: int64(tokens.map((_, place) => before + place)),
      };
      this.cache.past.forEach((name, index) => (feeds[name] = past[index]!));
      const run = this.last.then(() => this.session.run(feeds));
      this.last = run.catch(() => undefined);
      const results = await run;
      release();
      past = this.cache.present.map((name) => results[name]!);
      length = total;
      const logits = results["logits"]!.data as Float32Array;
      return logits.subarray(logits.length - this.vocabulary);
    };
    return { append, release };
  }

  async release(): Promise<void> {
    await this.session.release();
  }
}

async function load(folder: string): Promise<Ort> {
  const script = new URL("ort.webgpu.min.mjs", folder).href;
  try {
    const ort: Ort = await import(/* @vite-ignore */ script);
    ort.env.wasm.wasmPaths = folder;
    ort.env.wasm.numThreads = 1;
    return ort;
  } catch (error) {
    throw new ProviderError(`onnxruntime-web cannot be loaded from ${folder}: ${error}.`);
  }
}
