"""Makes each peer's model: a Llama of Atom's shape, without XSA, which no peer can express.

Runs in the environment named `hugging_face`. The weights are random, the same for all; text does
not matter here, and every peer makes as many tokens as it is asked for.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM


def snapshot(folder: Path, reference: Path) -> LlamaForCausalLM:
    """Write the Hugging Face snapshot that all conversions start from."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096,
            hidden_size=192,
            intermediate_size=480,
            num_hidden_layers=7,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=64,
            max_position_embeddings=512,
            rope_theta=5000.0,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.05,
        )
    )
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(reference / name, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "GPT2TokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return model


def gguf(model: LlamaForCausalLM, snapshot: Path, path: Path, kind: str) -> None:
    """Write llama.cpp's file, all matrices in the one block format `kind`."""
    from gguf import GGMLQuantizationType, GGUFWriter, TokenType
    from gguf.quants import quantize

    config = model.config
    quantization = GGMLQuantizationType[kind]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)

    tokenizer = json.loads((snapshot / "tokenizer.json").read_text())
    vocabulary = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    vocabulary |= {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    special = {token["id"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([vocabulary[index] for index in range(config.vocab_size)])
    writer.add_token_types(
        [
            TokenType.CONTROL if index in special else TokenType.NORMAL
            for index in range(config.vocab_size)
        ]
    )
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        array = tensor.float().numpy()
        if name.startswith("model.layers."):
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                array = _interleaved(array, config.head_dim)
            new = f"blk.{layer}.{names[part]}.weight"
        else:
            new = {"model.embed_tokens.weight": "token_embd.weight"}.get(name, "output_norm.weight")
        if array.ndim == 1:
            writer.add_tensor(new, array)
        else:
            writer.add_tensor(new, quantize(array, quantization), raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(weight: np.ndarray, width: int) -> np.ndarray:
    """llama.cpp rotates neighbours, transformers halves of a head: reorder the rows."""
    heads = weight.shape[0] // width
    halves = weight.reshape(heads, 2, width // 2, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def main() -> None:
    """Write all folders under the one given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("reference", type=Path, help="folder with the reference tokenizer")
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    model = snapshot(out / "llama", arguments.reference)
    for kind in ("Q8_0", "Q4_0"):
        gguf(model, out / "llama", out / f"{kind}.gguf", kind)

    import ctranslate2

    converter = ctranslate2.converters.TransformersConverter(str(out / "llama"))
    converter.convert(str(out / "ctranslate2"), quantization="int8", force=True)

    from optimum.exporters.onnx import main_export
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    main_export(str(out / "llama"), out / "optimum", task="text-generation-with-past")
    quantizer = ORTQuantizer.from_pretrained(out / "optimum", file_name="model.onnx")
    quantizer.quantize(
        save_dir=out / "optimum",
        quantization_config=AutoQuantizationConfig.avx2(is_static=False, per_channel=True),
    )
    (out / "optimum" / "model.onnx").unlink()


if __name__ == "__main__":
    sys.exit(main())
