// ?bundle=URL opens another model; ./onnxruntime/, where it is, is taken before the CDN.
import { generationTps, openInWorker } from "./atom-edge/atom-edge.js";

const $ = (id) => document.getElementById(id);
const [text, status, go, temperature] = ["text", "status", "go", "temperature"].map($);
const say = (message, isError = false) => {
  status.textContent = message;
  status.classList.toggle("error", isError);
};
const bundle = new URLSearchParams(location.search).get("bundle") ?? "./model/";
const local = await fetch("./onnxruntime/ort-wasm-simd-threaded.mjs", { method: "HEAD" });
let session, running;
temperature.oninput = () => (temperature.nextElementSibling.value = temperature.value);
text.onkeydown = (event) => (event.ctrlKey || event.metaKey) && event.key === "Enter" && go.click();
go.onclick = async () => {
  if (running) return running.abort();
  running = new AbortController();
  go.textContent = "Stop";
  try {
    const options = { temperature: +temperature.value, max_new_tokens: +$("tokens").value || 96 };
    for await (const piece of session.stream(text.value, { ...options, signal: running.signal })) {
      text.value += piece.text;
      text.scrollTop = text.scrollHeight;
      const first = Math.round(1000 * piece.prompt_seconds);
      say(`${Math.round(generationTps(piece))} tokens/s · first after ${first} ms`);
    }
  } catch (error) {
    say(error.message, true);
  }
  [running, go.textContent] = [undefined, "Continue"];
};
try {
  const onProgress = (loaded, total) => ($("loaded").value = loaded / total);
  session = await openInWorker(bundle, { onProgress, ...(local.ok && { onnxruntime: "./onnxruntime/" }) });
  say("Ready. It runs on this device.");
  go.disabled = false;
} catch (error) {
  say(error.message, true);
}
