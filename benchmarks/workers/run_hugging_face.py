"""transformers' generate, on PyTorch or (a folder with an ONNX file) on optimum's ORTModel."""

from pathlib import Path
from queue import Queue
from threading import Thread

from protocol import serve


def load(folder, threads):
    import torch

    torch.set_num_threads(threads)
    model = _open(folder, threads)

    class Stream:
        """A transformers streamer: gets the prompt first, then each new token."""

        def __init__(self):
            self.queue = Queue()

        def put(self, value):
            self.queue.put(value.flatten().tolist())

        def end(self):
            self.queue.put(None)

    def generate(prompt, tokens):
        stream = Stream()
        ids = torch.tensor([prompt])
        options = {
            "attention_mask": torch.ones_like(ids),
            "max_new_tokens": tokens,
            "min_new_tokens": tokens,
            "do_sample": False,
            "pad_token_id": 0,
            "streamer": stream,
        }
        thread = Thread(target=model.generate, args=(ids,), kwargs=options)
        thread.start()
        stream.queue.get()
        while (new := stream.queue.get()) is not None:
            yield from new
        thread.join()

    return generate


def _open(folder, threads):
    if not any(Path(folder).rglob("*.onnx")):
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder).eval()
    import onnxruntime
    from optimum.onnxruntime import ORTModelForCausalLM

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return ORTModelForCausalLM.from_pretrained(
        folder, file_name="model_quantized.onnx", session_options=options
    )


if __name__ == "__main__":
    serve(load)
