// Greedy text of a bundle, and the ids of strings, by transformers.js.
// Reads {"models", "bundle", "dtype", "prompts", "tokens", "strings"} from stdin.
import { AutoModelForCausalLM, AutoTokenizer, env } from "@huggingface/transformers";
import { readFileSync } from "node:fs";

const request = JSON.parse(readFileSync(0, "utf-8"));
env.allowRemoteModels = false;
env.localModelPath = request.models;

const tokenizer = await AutoTokenizer.from_pretrained(request.bundle);
const model = await AutoModelForCausalLM.from_pretrained(request.bundle, { dtype: request.dtype });
const replies = [];
for (const prompt of request.prompts) {
  const inputs = tokenizer(prompt, { add_special_tokens: false });
  const output = await model.generate({
    ...inputs,
    max_new_tokens: request.tokens,
    do_sample: false,
  });
  replies.push(output.tolist()[0].slice(inputs.input_ids.dims[1]).map(Number));
}
const ids = request.strings.map((text) => tokenizer.encode(text, { add_special_tokens: false }));
process.stdout.write(JSON.stringify({ replies, ids }));
