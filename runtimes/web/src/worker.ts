/** The worker's side of `openInWorker`: a session, and the replies that the page asks for. */
import { writeError } from "./errors.ts";
import type { Answer, Question } from "./messages.ts";
import { AtomSession } from "./session.ts";

let session: AtomSession | undefined;
const signals = new Map<number, AbortController>();

function answer(message: Answer): void {
  postMessage(message);
}

async function reply(question: Question): Promise<void> {
  const { id } = question;
  if (question.kind === "cancel") {
    signals.get(question.of)?.abort();
    return;
  }
  const controller = new AbortController();
  signals.set(id, controller);
  try {
    if (question.kind === "open") {
      const onProgress = (loaded: number, total: number): void =>
        answer({ id, kind: "progress", loaded, total });
      const { signal } = controller;
      session = await AtomSession.open(question.url, { ...question.options, onProgress, signal });
      const { contextLength, provider } = session;
      answer({ id, kind: "opened", contextLength, provider, endIds: [...session.endIds] });
    } else {
      const { prompt, options } = question;
      const request = { ...options, signal: controller.signal };
      for await (const piece of session!.stream(prompt, request)) {
        answer({ id, kind: "piece", piece });
      }
    }
  } catch (error) {
    answer({ id, kind: "error", error: writeError(error) });
  } finally {
    signals.delete(id);
  }
}

addEventListener("message", ({ data }: MessageEvent<Question>) => void reply(data));
