export type { Progress } from "./bundle.ts";
export { openInWorker } from "./client.ts";
export {
  AtomEdgeError,
  BundleError,
  GenerationError,
  IntegrityError,
  ProviderError,
  TokenizerError,
} from "./errors.ts";
export { VERSION as ONNXRUNTIME_VERSION } from "./onnxruntime.ts";
export type { Options } from "./options.ts";
export { type FinishReason, type Generation, generationTps, type Piece, type TokenLogprob } from "./reply.ts";
export { AtomSession, type OpenOptions, type RequestOptions, type TextSession } from "./session.ts";
export type { Detokenizer, Tokenizer } from "./tokenizer.ts";
