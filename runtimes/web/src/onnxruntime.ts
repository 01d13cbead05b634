/**
 * onnxruntime's WebAssembly module by its C interface, as `onnxruntime-web` itself calls it.
 *
 * The JavaScript of `onnxruntime-web` copies every tensor into the module before a run and out of it
 * behind. Here the cache stays where it is: what a run returns is given to the next one.
 */
import { BundleError, ProviderError, shown } from "./errors.ts";

/** The release of onnxruntime-web whose module this is the interface of. */
export const VERSION = "1.30.0";
/** Where it is fetched from unless the caller says. */
export const CDN = `https://cdn.jsdelivr.net/npm/onnxruntime-web@${VERSION}/dist/`;

export type Pointer = number;

/** What is used of the module; sizes and addresses have 32 bits. */
interface Module {
  HEAPU8: Uint8Array;
  HEAP32: Int32Array;
  HEAPU32: Uint32Array;
  _malloc(bytes: number): Pointer;
  _free(at: Pointer): void;
  stackSave(): Pointer;
  stackRestore(at: Pointer): void;
  stackAlloc(bytes: number): Pointer;
  UTF8ToString(at: Pointer): string;
  _OrtInit(threads: number, severity: number): number;
  _OrtGetLastError(code: Pointer, message: Pointer): void;
  _OrtCreateSessionOptions(
    level: number,
    arena: boolean,
    pattern: boolean,
    mode: number,
    profiling: boolean,
    profile: Pointer,
    logId: Pointer,
    severity: number,
    verbosity: number,
    optimized: Pointer,
  ): Pointer;
  _OrtReleaseSessionOptions(options: Pointer): number;
  _OrtCreateSession(data: Pointer, bytes: number, options: Pointer): Pointer | Promise<Pointer>;
  _OrtReleaseSession(session: Pointer): number;
  _OrtGetInputOutputCount(session: Pointer, inputs: Pointer, outputs: Pointer): number;
  _OrtGetInputOutputMetadata(s: Pointer, index: number, name: Pointer, metadata: Pointer): number;
  _OrtFree(at: Pointer): number;
  _OrtCreateTensor(
    type: number,
    data: Pointer,
    bytes: number,
    dims: Pointer,
    rank: number,
    location: number,
  ): Pointer;
  _OrtGetTensorData(t: Pointer, type: Pointer, data: Pointer, dims: Pointer, rank: Pointer): number;
  _OrtReleaseTensor(tensor: Pointer): number;
  _OrtRun(
    session: Pointer,
    inputNames: Pointer,
    inputs: Pointer,
    inputCount: number,
    outputNames: Pointer,
    outputCount: number,
    outputs: Pointer,
    options: Pointer,
  ): number | Promise<number>;
}

const SEVERITY_ERROR = 3;
const ALL_OPTIMIZATIONS = 99;
const CPU = 1;
export const FLOAT32 = 1;
export const INT64 = 7;

export interface NamedPointer {
  name: string;
  pointer: Pointer;
  shape: (number | string)[];
}

/** The module, with names for what is done with it. */
export class OnnxRuntime {
  private constructor(private readonly module: Module) {}

  private static readonly loaded = new Map<string, Promise<OnnxRuntime>>();

  /**
   * Load the module of a folder, once.
   *
   * @param folder the URL of `ort-wasm-simd-threaded.mjs` and `.wasm`.
   * @throws ProviderError if they cannot be loaded.
   */
  static load(folder: string, threads: number): Promise<OnnxRuntime> {
    const key = `${threads} ${folder}`;
    let loading = this.loaded.get(key);
    if (!loading) {
      loading = this.start(folder, threads);
      this.loaded.set(key, loading);
      loading.catch(() => this.loaded.delete(key));
    }
    return loading;
  }

  private static async start(folder: string, threads: number): Promise<OnnxRuntime> {
    if (threads > 1 && !globalThis.crossOriginIsolated) {
      throw new ProviderError(
        `threads is ${threads}, and this page may use one: serve it with the headers ` +
          "Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp.",
      );
    }
    try {
      const script = new URL("ort-wasm-simd-threaded.mjs", folder).href;
      const { default: factory } = await import(/* @vite-ignore */ script);
      const module: Module = await factory({
        numThreads: threads,
        locateFile: (name: string) => new URL(name, folder).href,
      });
      if (module._OrtInit(threads, SEVERITY_ERROR) !== 0) throw new Error(lastError(module));
      return new OnnxRuntime(module);
    } catch (error) {
      throw new ProviderError(
        `onnxruntime-web ${VERSION} cannot be loaded from ${folder}: ${error}. Name the folder of its ` +
          "ort-wasm-simd-threaded.mjs and .wasm by the option `onnxruntime`.",
      );
    }
  }

  /** @throws BundleError for a graph that onnxruntime refuses. */
  async createSession(graph: Uint8Array): Promise<Pointer> {
    const { module } = this;
    const data = this.allocate(graph.byteLength);
    const options = module._OrtCreateSessionOptions(
      ALL_OPTIMIZATIONS, true, true, 0, false, 0, 0, SEVERITY_ERROR, 0, 0,
    );
    try {
      module.HEAPU8.set(graph, data);
      const session = await module._OrtCreateSession(data, graph.byteLength, options);
      if (session === 0) throw new BundleError(`onnxruntime refuses the graph: ${lastError(module)}`);
      return session;
    } finally {
      module._OrtReleaseSessionOptions(options);
      module._free(data);
    }
  }

  releaseSession(session: Pointer): void {
    this.module._OrtReleaseSession(session);
  }

  /** The inputs and the outputs of a session; their names stay in memory. */
  signature(session: Pointer): { inputs: NamedPointer[]; outputs: NamedPointer[] } {
    const { module } = this;
    const [inputs, outputs] = this.read(2, (at) =>
      module._OrtGetInputOutputCount(session, at, at + 4),
    ) as [number, number];
    const all = Array.from({ length: inputs + outputs }, (_, index) => this.value(session, index));
    return { inputs: all.slice(0, inputs), outputs: all.slice(inputs) };
  }

  private value(session: Pointer, index: number): NamedPointer {
    const { module } = this;
    const [pointer, metadata] = this.read(2, (at) =>
      module._OrtGetInputOutputMetadata(session, index, at, at + 4),
    ) as [Pointer, Pointer];
    const fields = module.HEAPU32.subarray(metadata / 4);
    const rank = fields[0] === 0 ? 0 : fields[1]!;
    const shape = Array.from({ length: rank }, (_, axis) =>
      fields[2 + axis] ? module.UTF8ToString(fields[2 + axis]!) : fields[2 + rank + axis]!,
    );
    module._OrtFree(metadata);
    return { name: module.UTF8ToString(pointer), pointer, shape };
  }

  /** Memory of the module, until it is freed. */
  allocate(bytes: number): Pointer {
    const at = this.module._malloc(bytes);
    if (at === 0) {
      throw new ProviderError(`There is no memory for ${bytes} more bytes. Use a smaller model.`);
    }
    return at;
  }

  free(at: Pointer): void {
    this.module._free(at);
  }

  /** Write 64-bit integers, none of which is negative or above 2**32. */
  write(at: Pointer, values: ArrayLike<number>): void {
    const words = this.module.HEAPU32.subarray(at / 4);
    for (let index = 0; index < values.length; index++) {
      words[2 * index] = values[index]!;
      words[2 * index + 1] = 0;
    }
  }

  /** A tensor over memory that is not freed before it. */
  tensor(type: number, data: Pointer, dims: readonly number[]): Pointer {
    const { module } = this;
    const bytes = dims.reduce((a, b) => a * b, type === INT64 ? 8 : 4);
    const stack = module.stackSave();
    const at = module.stackAlloc(4 * dims.length);
    module.HEAP32.set(dims, at / 4);
    const tensor = module._OrtCreateTensor(type, data, bytes, at, dims.length, CPU);
    module.stackRestore(stack);
    if (tensor === 0) throw new ProviderError(`onnxruntime: ${lastError(module)}`);
    return tensor;
  }

  releaseTensor(tensor: Pointer): void {
    this.module._OrtReleaseTensor(tensor);
  }

  /** The last `count` elements of a float32 tensor; valid until memory changes. */
  floats(tensor: Pointer, count: number): Float32Array {
    const { module } = this;
    const [, data, dims, rank] = this.read(4, (at) =>
      module._OrtGetTensorData(tensor, at, at + 4, at + 8, at + 12),
    ) as [number, Pointer, Pointer, number];
    const size = module.HEAPU32.subarray(dims / 4, dims / 4 + rank).reduce((a, b) => a * b, 1);
    module._OrtFree(dims);
    return new Float32Array(module.HEAPU8.buffer, data + 4 * (size - count), count);
  }

  /** Run a session: addresses of names, tensors in, tensors out. */
  async run(
    session: Pointer,
    inputNames: readonly Pointer[],
    inputs: readonly Pointer[],
    outputNames: readonly Pointer[],
  ): Promise<Pointer[]> {
    const { module } = this;
    const [ins, outs] = [inputs.length, outputNames.length];
    const stack = module.stackSave();
    const at = module.stackAlloc(4 * 2 * (ins + outs));
    module.HEAPU32.set([...inputNames, ...inputs, ...outputNames, ...Array(outs).fill(0)], at / 4);
    const results = at + 4 * (2 * ins + outs);
    const code = module._OrtRun(session, at, at + 4 * ins, ins, at + 8 * ins, outs, results, 0);
    const found = Array.from(module.HEAPU32.subarray(results / 4, results / 4 + outs));
    module.stackRestore(stack);
    if ((await code) !== 0) throw new ProviderError(`onnxruntime: ${lastError(module)}`);
    return found;
  }

  /** The words that a call writes; it returns 0 if it is well. */
  private read(count: number, call: (at: Pointer) => number): number[] {
    const { module } = this;
    const stack = module.stackSave();
    const at = module.stackAlloc(4 * count);
    const failed = call(at) !== 0;
    const words = Array.from(module.HEAPU32.subarray(at / 4, at / 4 + count));
    module.stackRestore(stack);
    if (failed) throw new ProviderError(`onnxruntime: ${lastError(module)}`);
    return words;
  }
}

function lastError(module: Module): string {
  const stack = module.stackSave();
  const at = module.stackAlloc(8);
  module._OrtGetLastError(at, at + 4);
  const message = module.HEAPU32[at / 4 + 1]!;
  const text = message ? module.UTF8ToString(message) : `error ${shown(module.HEAP32[at / 4])}`;
  module.stackRestore(stack);
  return text;
}
