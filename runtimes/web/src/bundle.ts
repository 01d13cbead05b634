/** A bundle at a URL: every file is checked against the manifest before it is used. */
import type { Json } from "./defaults.ts";
import { BundleError, IntegrityError, shown } from "./errors.ts";

/** How far the download of a bundle is, in bytes. */
export type Progress = (loaded: number, total: number) => void;

/** A verified bundle. */
export interface Bundle {
  /** Its folder, with a slash at the end. */
  readonly url: string;
  /** The longest sequence, prompt and reply together, in tokens. */
  readonly contextLength: number;
  readonly quantization: string;
  readonly config: Json;
  readonly generationConfig: Json;
  readonly tokenizer: Json;
  readonly tokenizerConfig: Json;
  /** The ONNX file. */
  readonly graph: Uint8Array;
}

interface FileEntry {
  bytes: number;
  sha256: string;
}

interface Manifest {
  context_length: number;
  quantization: string;
  graphs: Record<string, string>;
  files: Record<string, FileEntry>;
}

const FORMAT_VERSION = 1;
const NEEDED = ["config.json", "generation_config.json", "tokenizer.json"] as const;

/**
 * Download a bundle.
 *
 * @param url of its folder; a relative one is relative to the page.
 * @throws BundleError if there is none, or none that a browser can run; IntegrityError if a file is
 *   not the one that the manifest lists.
 */
export async function fetchBundle(
  url: string,
  progress?: Progress,
  signal?: AbortSignal,
): Promise<Bundle> {
  const folder = new URL(url.endsWith("/") ? url : `${url}/`, globalThis.location?.href).href;
  const manifest = await fetchManifest(folder, signal);
  const graph = manifest.graphs["model"];
  if (!graph) {
    throw new BundleError(
      `The bundle ${folder} has no graph that a browser can run; it has ` +
        `${Object.keys(manifest.graphs).join(", ")}. Export it with: atom-edge export --target web`,
    );
  }
  const names = [...NEEDED, graph, ...["tokenizer_config.json"].filter((n) => n in manifest.files)];
  const entries = names.map((name) => [name, entryOf(manifest, name, folder)] as const);
  const total = entries.reduce((sum, [, entry]) => sum + entry.bytes, 0);
  let loaded = 0;
  const fetched = entries.map(async ([name, entry]) => {
    const data = await fetchFile(folder + name, entry, signal, (bytes) => {
      loaded += bytes;
      progress?.(loaded, total);
    });
    return [name, data] as const;
  });
  const files = new Map(await Promise.all(fetched));
  const json = (name: string): Json => parseJson(files.get(name)!, folder + name);
  return {
    url: folder,
    contextLength: manifest.context_length,
    quantization: manifest.quantization,
    config: json("config.json"),
    generationConfig: json("generation_config.json"),
    tokenizer: json("tokenizer.json"),
    tokenizerConfig: files.has("tokenizer_config.json") ? json("tokenizer_config.json") : {},
    graph: files.get(graph)!,
  };
}

async function fetchManifest(folder: string, signal?: AbortSignal): Promise<Manifest> {
  const where = `${folder}manifest.json`;
  const response = await get(where, signal);
  const manifest = parseJson(new Uint8Array(await response.arrayBuffer()), where);
  const version = manifest["format_version"];
  if (version !== FORMAT_VERSION) {
    throw new BundleError(
      `${where}: format_version: ${shown(version)}; this release of atom-edge reads ` +
        `${FORMAT_VERSION}. Export the model again, or use the release that fits it.`,
    );
  }
  const context = manifest["context_length"];
  const isObject = (value: unknown): boolean => typeof value === "object" && value !== null;
  if (!isObject(manifest["files"]) || !isObject(manifest["graphs"])) {
    throw new IntegrityError(`${where} is not the manifest of a bundle. Export the model again.`);
  }
  if (!Number.isInteger(context) || (context as number) < 1 || (context as number) > 2 ** 24) {
    throw new IntegrityError(`${where}: context_length: ${shown(context)} is no length.`);
  }
  return manifest as unknown as Manifest;
}

function entryOf(manifest: Manifest, name: string, folder: string): FileEntry {
  const entry = Object.hasOwn(manifest.files, name) ? manifest.files[name] : undefined;
  if (!entry || !Number.isInteger(entry.bytes) || typeof entry.sha256 !== "string") {
    throw new IntegrityError(`${folder}manifest.json: files: ${shown(name)} is missing.`);
  }
  if (name.startsWith("/") || name.includes("\\") || /(^|\/)\.\.?(\/|$)|:/.test(name)) {
    throw new IntegrityError(`${folder}manifest.json: ${shown(name)} is not inside the bundle.`);
  }
  return entry;
}

async function get(url: string, signal?: AbortSignal): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, signal ? { signal } : {});
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new BundleError(`${url} cannot be fetched: ${error}. Is the server up, and may this page use it?`);
  }
  if (!response.ok) {
    const isBundle = url.endsWith("manifest.json") ? " A bundle's folder has a manifest.json." : "";
    throw new BundleError(`${url} cannot be fetched: HTTP status ${response.status}.${isBundle}`);
  }
  return response;
}

async function fetchFile(
  url: string,
  expected: FileEntry,
  signal: AbortSignal | undefined,
  progress: (bytes: number) => void,
): Promise<Uint8Array> {
  const response = await get(url, signal);
  const data = new Uint8Array(expected.bytes);
  let length = 0;
  for (const reader = response.body!.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (length + value.length > data.length) {
      await reader.cancel();
      throw changed(url);
    }
    data.set(value, length);
    length += value.length;
    progress(value.length);
  }
  if (length !== data.length || !(await hasHash(data, expected.sha256))) throw changed(url);
  return data;
}

function changed(url: string): IntegrityError {
  return new IntegrityError(
    `${url} is not the file that its manifest lists. Copy the whole bundle again, then reload.`,
  );
}

async function hasHash(data: Uint8Array<ArrayBuffer>, sha256: string): Promise<boolean> {
  // Over http, other than from this machine, a browser has no `subtle`: nothing there is safe.
  if (!globalThis.crypto?.subtle) return true;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === sha256;
}

function parseJson(data: Uint8Array, where: string): Json {
  try {
    const value: unknown = JSON.parse(new TextDecoder().decode(data));
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
  } catch {
    // Said below.
  }
  throw new IntegrityError(`${where} is not a JSON object. Export the model again.`);
}
