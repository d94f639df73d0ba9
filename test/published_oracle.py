"""The published backbone written out plainly, from a dict of tensors under the published names. Imports nothing of the package.

One image at a time, every block and layer, all hidden states stacked, attention as matrices; float64 where asked.
"""

from __future__ import annotations

import math

import torch


def norm(x, w, b, eps=1e-6):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + eps) * w + b


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def linear(w, name, x):
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def tower(w, prefix, image, heads=16):
    """(3, S, S) -> (patches, W): after the last but one block, without prefix tokens."""
    kernel = w[f"{prefix}patch_embed.proj.weight"]
    patch, size = kernel.shape[-1], image.shape[-1]
    tokens = []
    for row in range(0, size, patch):
        for column in range(0, size, patch):
            piece = image[:, row : row + patch, column : column + patch]
            tokens.append((kernel * piece).sum((1, 2, 3)) + w[f"{prefix}patch_embed.proj.bias"])
    x = torch.stack(tokens) + w[f"{prefix}pos_embed"][0]
    first = [w[f"{prefix}{name}"][0] for name in ("cls_token", "reg_token") if f"{prefix}{name}" in w]
    skipped = sum(map(len, first))
    x = torch.cat([*first, x])
    outputs, i = [], 0
    while f"{prefix}blocks.{i}.norm1.weight" in w:
        block = f"{prefix}blocks.{i}."
        q, k, v = linear(w, f"{block}attn.qkv", norm(x, w[f"{block}norm1.weight"], w[f"{block}norm1.bias"])).chunk(3, -1)
        width = q.shape[-1] // heads
        mixed = []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            mixed.append((q[:, part] @ k[:, part].T / math.sqrt(width)).softmax(-1) @ v[:, part])
        x = x + w.get(f"{block}ls1.scale_factor", 1.0) * linear(w, f"{block}attn.proj", torch.cat(mixed, -1))
        inner = gelu(linear(w, f"{block}mlp.fc1", norm(x, w[f"{block}norm2.weight"], w[f"{block}norm2.bias"])))
        x = x + w.get(f"{block}ls2.scale_factor", 1.0) * linear(w, f"{block}mlp.fc2", inner)
        outputs.append(x)
        i += 1
    return outputs[-2][skipped:]


def rms(x, w, eps):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * w


def decoder(w, prefix, x, heads, kv_heads, eps=1e-6, base=1e6):
    """(T, D) -> hidden states 0 .. L, the last one after the final norm; causal."""
    length, width = len(x), x.shape[-1] // heads
    frequency = base ** (-torch.arange(0, width, 2, dtype=x.dtype) / width)
    angle = torch.arange(length, dtype=x.dtype)[:, None] * frequency[None]
    angle = torch.cat([angle, angle], -1)

    def turn(y):
        half = torch.cat([-y[:, width // 2 :], y[:, : width // 2]], -1)
        return y * angle.cos() + half * angle.sin()

    unseen = torch.triu(torch.full((length, length), -math.inf, dtype=x.dtype), 1)
    states, i = [x], 0
    while f"{prefix}layers.{i}.input_layernorm.weight" in w:
        layer = f"{prefix}layers.{i}."
        y = rms(x, w[f"{layer}input_layernorm.weight"], eps)
        q, k, v = (linear(w, f"{layer}self_attn.{name}_proj", y) for name in "qkv")
        mixed = []
        for h in range(heads):
            g = h // (heads // kv_heads)
            query, key = turn(q[:, h * width : (h + 1) * width]), turn(k[:, g * width : (g + 1) * width])
            weights = (query @ key.T / math.sqrt(width) + unseen).softmax(-1)
            mixed.append(weights @ v[:, g * width : (g + 1) * width])
        x = x + linear(w, f"{layer}self_attn.o_proj", torch.cat(mixed, -1))
        y = rms(x, w[f"{layer}post_attention_layernorm.weight"], eps)
        gate = linear(w, f"{layer}mlp.gate_proj", y)
        x = x + linear(w, f"{layer}mlp.down_proj", gate * torch.sigmoid(gate) * linear(w, f"{layer}mlp.up_proj", y))
        states.append(x)
        i += 1
    states[-1] = rms(x, w[f"{prefix}norm.weight"], eps)
    return states


def published_states(w, pixel_values, input_ids, heads, kv_heads):
    """pixel_values (6 * images, S, S), input_ids (N,) -> (task, latent): lists of (P, D) and (Q, D) over layers 0 .. L."""
    vision = []
    for image in pixel_values.split(6):
        features = [tower(w, "vision_backbone.featurizer.", image[:3]), tower(w, "vision_backbone.fused_featurizer.", image[3:])]
        x = gelu(linear(w, "projector.fc1", torch.cat(features, -1)))
        vision.append(linear(w, "projector.fc3", gelu(linear(w, "projector.fc2", x))))
    vision = torch.cat(vision)
    words = w["language_model.model.embed_tokens.weight"]
    text, queries, stop = words[input_ids], w["action_queries.weight"], words[2:3]
    sequence = torch.cat([text[:1], vision, text[1:], queries, stop])
    states = decoder(w, "language_model.model.", sequence, heads, kv_heads)
    patches, count, tokens = len(vision), len(queries), len(text)
    return [s[:patches] for s in states], [s[patches + tokens - 1 : patches + tokens - 1 + count] for s in states]
