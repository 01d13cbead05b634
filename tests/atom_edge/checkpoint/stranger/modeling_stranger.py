"""A decoder as a stranger writes it: GPT names, one fused matrix, a norm of its own.

Its configuration class has defaults that a config.json need not repeat.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

# What is written in the code and in no config.json; the tests change these lines.
NORM_EPS = 1e-5  # of the configuration
CODE_EPS = 1e-5  # of the norm itself
INTERLEAVED = False
XSA = True
GATE_LAST = False
ATTENTION_SCALE = None


class StrangerConfig(PretrainedConfig):
    model_type = "stranger"

    def __init__(
        self,
        n_embd=24,
        n_layer=2,
        n_head=2,
        n_kv_head=1,
        d_ff=32,
        block_size=64,
        vocab_size=300,
        rope_base=5000.0,
        norm_eps=NORM_EPS,
        **kwargs,
    ):
        self.n_embd, self.n_layer, self.n_head, self.n_kv_head = n_embd, n_layer, n_head, n_kv_head
        self.d_ff, self.block_size, self.vocab_size = d_ff, block_size, vocab_size
        self.rope_base, self.norm_eps = rope_base, norm_eps
        super().__init__(**kwargs)


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        return x * (x.pow(2).mean(-1, keepdim=True) + CODE_EPS).rsqrt() * self.weight


def turn(x, base):
    B, T, H, D = x.shape
    frequencies = base ** -(torch.arange(0, D, 2) / D)
    angles = torch.outer(torch.arange(T).float(), frequencies)
    if INTERLEAVED:
        z = torch.view_as_complex(x.float().reshape(B, T, H, D // 2, 2))
        rotation = torch.polar(torch.ones_like(angles), angles)[:, None]
        return torch.view_as_real(z * rotation).flatten(3)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    a, b = x[..., : D // 2], x[..., D // 2 :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, self.width = c, c.n_embd // c.n_head
        self.c_attn = nn.Linear(c.n_embd, (c.n_head + 2 * c.n_kv_head) * self.width, bias=False)
        self.c_proj = nn.Linear(c.n_embd, c.n_embd, bias=False)

    def forward(self, x):
        B, T, E = x.shape
        kv = self.c.n_kv_head * self.width
        q, k, v = self.c_attn(x).split([E, kv, kv], -1)
        q, k, v = (t.view(B, T, -1, self.width) for t in (q, k, v))
        q, k = turn(q, self.c.rope_base), turn(k, self.c.rope_base)
        repeat = self.c.n_head // self.c.n_kv_head
        v = v.repeat_interleave(repeat, 2)
        k = k.repeat_interleave(repeat, 2)
        y = F.scaled_dot_product_attention(
            *(t.transpose(1, 2) for t in (q, k, v)), is_causal=True, scale=ATTENTION_SCALE
        ).transpose(1, 2)
        if XSA:
            y = y - (y * v).sum(-1, keepdim=True) / v.pow(2).sum(-1, keepdim=True) * v
        return self.c_proj(y.reshape(B, T, E))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c_fc = nn.Linear(c.n_embd, c.d_ff, bias=False)
        self.c_fc2 = nn.Linear(c.n_embd, c.d_ff, bias=False)
        self.c_proj = nn.Linear(c.d_ff, c.n_embd, bias=False)

    def forward(self, x):
        gate, up = (self.c_fc2(x), self.c_fc(x)) if GATE_LAST else (self.c_fc(x), self.c_fc2(x))
        return self.c_proj(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ln_1, self.attn = Norm(c.n_embd), Attention(c)
        self.ln_2, self.mlp = Norm(c.n_embd), MLP(c)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class StrangerForCausalLM(PreTrainedModel):
    config_class = StrangerConfig
    _tied_weights_keys = ("lm_head.weight",)

    def __init__(self, config):
        super().__init__(config)
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": Norm(config.n_embd),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.transformer["wte"]

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, **kwargs):
        x = self.transformer["wte"](input_ids)
        for block in self.transformer["h"]:
            x = block(x)
        return CausalLMOutput(logits=self.lm_head(self.transformer["ln_f"](x)))
