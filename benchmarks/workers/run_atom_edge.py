"""atom-edge, through its public session."""

from protocol import serve


def load(folder, threads):
    from atom_edge import AtomSession

    session = AtomSession.from_pretrained(folder, threads=threads)

    def generate(prompt, tokens):
        for piece in session.stream(prompt, max_new_tokens=tokens, temperature=0):
            yield piece.token_id

    return generate


if __name__ == "__main__":
    serve(load)
