"""llama.cpp, through llama-cpp-python's token generator."""

from protocol import serve


def load(folder, threads):
    from llama_cpp import Llama

    model = Llama(
        folder, n_ctx=512, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False
    )

    def generate(prompt, tokens):
        model.reset()
        stream = model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0)
        for _ in range(tokens):
            yield next(stream)

    return generate


if __name__ == "__main__":
    serve(load)
