"""CosMo by definition: in numpy and float64, one sample, head and token at a time, on tensors with released names.

Written from the description of the model, without looking at its code. Shape letters: L text length, M media,
F frames, P patches, V visual tokens, D width.
"""

import numpy as np


HEADS = 8


def layer_norm(x, weight, bias=0.0, eps=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def gelu(x):
    from math import erf, sqrt

    return x * 0.5 * (1.0 + np.vectorize(erf)(x / sqrt(2.0)))


def norm(state, name, x):
    return layer_norm(x, state[f"{name}.weight"], state[f"{name}.bias"])


def attend(query, keys, values, allowed, scale, heads=HEADS):
    """Attend from one query to the keys that it may see; zeros if there are none."""
    out = np.zeros_like(query)
    width = len(query) // heads
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = {s: scale * float(query[part] @ keys[s][part]) for s in allowed}
        total = sum(np.exp(score - max(scores.values())) for score in scores.values())
        for s, score in scores.items():
            out[part] += np.exp(score - max(scores.values())) / total * values[s][part]
    return out


def feed_forward(state, name, x):
    return gelu(norm(state, f"{name}.0", x) @ state[f"{name}.1.weight"].T) @ state[f"{name}.3.weight"].T


def latent_attention(state, name, media, latents, is_real, qk_norm=False):
    """`(S, D)` media and `(Q, D)` latents -> `(Q, D)`; latents see the real media and all latents."""
    latents = norm(state, f"{name}.norm_latents", latents)
    context = np.concatenate([norm(state, f"{name}.norm_media", media), latents])
    queries = latents @ state[f"{name}.to_q.weight"].T
    keys, values = np.split(context @ state[f"{name}.to_kv.weight"].T, 2, axis=-1)
    if qk_norm:
        queries, keys = norm(state, f"{name}.q_norm", queries), norm(state, f"{name}.k_norm", keys)
    allowed = [s for s in range(len(context)) if s >= len(media) or is_real[s]]
    attended = np.stack([attend(query, keys, values, allowed, 64**-0.5) for query in queries])
    return attended @ state[f"{name}.to_out.weight"].T


def resample(state, features, frame_is_real):
    """One medium: `(F, P, D)` -> `(1 + V, D)`."""
    num_frames, num_patches, width = features.shape
    if "perceiver.frame_embs" in state:
        features = features + state["perceiver.frame_embs"][:num_frames, None]
    media = features.reshape(-1, width)
    is_real = [frame_is_real[f] for f in range(num_frames) for _ in range(num_patches)]
    latents = state["perceiver.latents"]
    depth = sum(name.endswith(".0.to_q.weight") for name in state if name.startswith("perceiver.layers"))
    for layer in range(depth):
        name = f"perceiver.layers.{layer}"
        latents = latents + latent_attention(state, f"{name}.0", media, latents, is_real)
        latents = latents + feed_forward(state, f"{name}.1", latents)
    return norm(state, "perceiver.norm", latents)


def media_seen(ids, visual_id, medium_is_real, only_immediate):
    """The real media that each token may look at."""
    real = [m for m, is_real in enumerate(medium_is_real) if is_real]
    seen, sets = 0, []
    for token in ids:
        seen += token == visual_id
        so_far = real[:seen]
        sets.append(so_far[-1:] if only_immediate else so_far)
    return sets


def gated_block(state, name, x, visual_tokens, seen, scale, qk_norm=False, uniform_before_first=False):
    """`(L, D_t)` and `(M, V, D_v)` -> `(L, D_t)`; a token that sees no medium gets zeros, or the mean over all."""
    num_tokens = visual_tokens.shape[1]
    media = visual_tokens.reshape(-1, visual_tokens.shape[-1])
    queries = norm(state, f"{name}.attn.norm", x) @ state[f"{name}.attn.to_q.weight"].T
    keys, values = np.split(media @ state[f"{name}.attn.to_kv.weight"].T, 2, axis=-1)
    if qk_norm:
        queries, keys = norm(state, f"{name}.attn.q_norm", queries), norm(state, f"{name}.attn.k_norm", keys)
    attended = np.stack(
        [
            values.mean(axis=0)
            if uniform_before_first and not media_of
            else attend(query, keys, values, [m * num_tokens + v for m in media_of for v in range(num_tokens)], scale)
            for query, media_of in zip(queries, seen, strict=True)
        ]
    )
    x = x + np.tanh(state[f"{name}.attn_gate"]) * (attended @ state[f"{name}.attn.to_out.weight"].T)
    return x + np.tanh(state[f"{name}.ff_gate"]) * feed_forward(state, f"{name}.ff", x)


def unit(x):
    return x / np.linalg.norm(x)


def embed_text(state, hidden, is_real, qk_norm=False):
    """`(L, D_t)` -> `(E,)`."""
    query = state["text_latent"]
    query = query + latent_attention(state, "text_learn_attnetion_layer", hidden, query, is_real, qk_norm)
    query = query + feed_forward(state, "text_learn_ff", query)
    pooled = layer_norm(query[0], state["text_cls_norm.gamma"])
    return unit(state["text_to_latents.to_latents.weight"] @ pooled)


def embed_media(state, class_latents):
    """`(M, D_v)` of the media that count -> `(E,)`."""
    return unit(state["img_to_latents.to_latents.weight"] @ np.mean(class_latents, axis=0))


def contrastive_loss(texts, media, scale):
    """Mean of both cross-entropies, in nats."""
    scores = [[scale * float(text @ medium) for medium in media] for text in texts]
    nll = [np.log(sum(np.exp(row))) - row[i] for i, row in enumerate(scores)]
    nll += [np.log(sum(np.exp(column))) - column[i] for i, column in enumerate(zip(*scores, strict=True))]
    return float(np.mean(nll))


def next_token_loss(logits, labels):
    """Negative log-probability of a label given the tokens before it, in nats; mean over all labels that count."""
    losses = []
    for row, row_labels in zip(logits, labels, strict=True):
        for scores, label in zip(row[:-1], row_labels[1:], strict=True):
            if label != -100:
                highest = scores.max()
                losses.append(highest + np.log(np.exp(scores - highest).sum()) - scores[label])
    return float(np.mean(losses))


def clip_patches(state, picture, patch_size, heads, after_ln_post):
    """Open_clip's vision tower on one picture, `(3, H, W)` -> `(P, D)`."""
    state = {name.removeprefix("vision_encoder.visual."): value for name, value in state.items()}
    kernel = state["conv1.weight"]
    side = picture.shape[-1] // patch_size
    patches = [
        np.einsum("chw,dchw->d", picture[:, y : y + patch_size, x : x + patch_size], kernel)
        for y in range(0, side * patch_size, patch_size)
        for x in range(0, side * patch_size, patch_size)
    ]
    x = norm(state, "ln_pre", np.stack([state["class_embedding"], *patches]) + state["positional_embedding"])
    depth = sum(name.endswith("ln_1.weight") for name in state)
    for layer in range(depth):
        name = f"transformer.resblocks.{layer}"
        fused = norm(state, f"{name}.ln_1", x) @ state[f"{name}.attn.in_proj_weight"].T
        queries, keys, values = np.split(fused + state[f"{name}.attn.in_proj_bias"], 3, axis=-1)
        scale = (len(queries[0]) // heads) ** -0.5
        attended = np.stack([attend(query, keys, values, range(len(x)), scale, heads) for query in queries])
        x = x + attended @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
        inner = norm(state, f"{name}.ln_2", x) @ state[f"{name}.mlp.c_fc.weight"].T + state[f"{name}.mlp.c_fc.bias"]
        inner = inner / (1 + np.exp(-1.702 * inner))
        x = x + inner @ state[f"{name}.mlp.c_proj.weight"].T + state[f"{name}.mlp.c_proj.bias"]
    return (norm(state, "ln_post", x) if after_ln_post else x)[1:]
