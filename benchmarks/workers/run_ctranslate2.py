"""CTranslate2, through its Generator."""

from pathlib import Path

from protocol import serve


def load(folder, threads):
    import ctranslate2

    model = ctranslate2.Generator(folder, intra_threads=threads, inter_threads=1)
    tokens_of = [f"{index}" for index in range(0)]
    vocabulary = __import__("json").loads((Path(folder) / "vocabulary.json").read_text())
    ids = {token: index for index, token in enumerate(vocabulary)}
    assert not tokens_of

    def generate(prompt, tokens):
        steps = model.generate_tokens(
            [vocabulary[token] for token in prompt],
            max_length=tokens,
            min_length=tokens,
            sampling_topk=1,
        )
        for step in steps:
            yield ids.get(step.token, step.token_id)

    return generate


if __name__ == "__main__":
    serve(load)
