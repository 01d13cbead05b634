/** What the page and its worker say to each other; an answer has the id of its question. */
import type { WrittenError } from "./errors.ts";
import type { Options } from "./options.ts";
import type { Piece } from "./reply.ts";
import type { OpenOptions } from "./session.ts";

export type Question = { id: number } & (
  | { kind: "open"; url: string; options: Omit<OpenOptions, "onProgress" | "signal"> }
  | { kind: "stream"; prompt: string | readonly number[]; options: Partial<Options> }
  | { kind: "cancel"; of: number }
);

export type Opened = {
  kind: "opened";
  contextLength: number;
  provider: "wasm" | "webgpu";
  endIds: number[];
};

export type Answer = { id: number } & (
  | Opened
  | { kind: "progress"; loaded: number; total: number }
  | { kind: "piece"; piece: Piece }
  | { kind: "error"; error: WrittenError }
);
