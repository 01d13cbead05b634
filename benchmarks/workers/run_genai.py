"""onnxruntime-genai, through its Generator."""

import json

from protocol import serve


def load(folder, threads):
    import onnxruntime_genai as og

    config = og.Config(folder)
    options = {"session_options": {"intra_op_num_threads": threads}}
    config.overlay(json.dumps({"model": {"decoder": options}}))
    model = og.Model(config)

    def generate(prompt, tokens):
        params = og.GeneratorParams(model)
        length = len(prompt) + tokens
        params.set_search_options(do_sample=False, max_length=length, min_length=length)
        generator = og.Generator(model, params)
        generator.append_tokens([prompt])
        for _ in range(tokens):
            generator.generate_next_token()
            yield generator.get_next_tokens()[0]

    return generate


if __name__ == "__main__":
    serve(load)
