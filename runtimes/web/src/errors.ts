/** Base of all errors that atom-edge raises on purpose: what was wrong, where, and what to do. */
export class AtomEdgeError extends Error {
  override name = "AtomEdgeError";
}

/** A bundle cannot be used. */
export class BundleError extends AtomEdgeError {
  override name = "BundleError";
}

/** A file of a bundle is missing or has changed. */
export class IntegrityError extends BundleError {
  override name = "IntegrityError";
}

/** A tokenizer cannot be used, or cannot encode a text. */
export class TokenizerError extends AtomEdgeError {
  override name = "TokenizerError";
}

/** onnxruntime-web, or the provider that was asked for, cannot be had. */
export class ProviderError extends AtomEdgeError {
  override name = "ProviderError";
}

/** A request that cannot be generated. */
export class GenerationError extends AtomEdgeError {
  override name = "GenerationError";
}

const ERRORS = [BundleError, IntegrityError, TokenizerError, ProviderError, GenerationError];

/** An error as it passes between a worker and the page. */
export interface WrittenError {
  name: string;
  message: string;
}

export function writeError(error: unknown): WrittenError {
  return error instanceof Error
    ? { name: error.name, message: error.message }
    : { name: "Error", message: String(error) };
}

/** The error that `writeError` wrote, of the same class. */
export function readError({ name, message }: WrittenError): Error {
  const kind = ERRORS.find((one) => new one().name === name);
  if (kind) return new kind(message);
  return name === "AbortError" ? new DOMException(message, name) : new Error(message);
}

/** A value as messages show it. */
export function shown(value: unknown): string {
  const text = typeof value === "string" ? JSON.stringify(value) : String(value);
  return text.length > 40 ? `${text.slice(0, 37)}...` : text;
}
