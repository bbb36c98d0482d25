"""Texts for training the toy towers, with words of the training split only, and their tokenizer.

No text names a held-out combination of shape, colour and action.
"""

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from dataset_builder.toy.narration import OFF_TOPIC, say
from dataset_builder.toy.world import ACTIONS, BACKGROUNDS, COLOURS, SEEN, SHAPES, Scene


MAX_VOCABULARY = 640


def draw_scene(rng: np.random.Generator) -> Scene:
    """A random scene of the training split; every combination is equally likely."""
    shape, colour, action = SEEN[rng.integers(len(SEEN))]
    return Scene(shape=shape, colour=colour, action=action, background=BACKGROUNDS[rng.integers(len(BACKGROUNDS))])


def draw_document(rng: np.random.Generator) -> str:
    """A random line of text for the language model: a caption, speech, an incomplete caption, or several of them."""
    kind = rng.random()
    if kind < 0.30:
        return draw_scene(rng).caption
    if kind < 0.50:
        return say(draw_scene(rng), rng)
    if kind < 0.55:
        return OFF_TOPIC[rng.integers(len(OFF_TOPIC))]
    if kind < 0.85:
        return _draw_phrase(rng)
    return " . ".join(draw_document(rng) for _ in range(int(rng.integers(2, 4))))


def _draw_phrase(rng: np.random.Generator) -> str:
    """A caption that names at most two of shape, colour and action, so that the model sees all pairs of them."""
    shape, colour = list(SHAPES)[rng.integers(len(SHAPES))], list(COLOURS)[rng.integers(len(COLOURS))]
    action = list(ACTIONS.values())[rng.integers(len(ACTIONS))]
    place = f"in front of the {BACKGROUNDS[rng.integers(len(BACKGROUNDS))]}"
    article = "an" if colour[0] in "aeiou" else "a"
    phrases = (
        f"{article} {colour} {shape} {place}",
        f"{article} {colour} object {action} {place}",
        f"a {shape} {action} {place}",
        f"the object {action} {place}",
    )
    return phrases[rng.integers(len(phrases))]


def describe_frame(scene: Scene, rng: np.random.Generator) -> tuple[str, bool]:
    """A caption of a single frame, which shows no action, and whether the caption names the background."""
    article = "an" if scene.colour[0] in "aeiou" else "a"
    thing = f"{article} {scene.object_phrase}"
    kind = rng.random()
    if kind < 0.35:
        return thing, False
    if kind < 0.50:
        return f"the {scene.object_phrase}", False
    if kind < 0.60:
        return scene.caption, True
    return f"{thing} in front of the {scene.background}", True


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer like OPT's: it puts `</s>` before each text and can encode any text."""
    rng = np.random.default_rng([seed, 3])
    texts = [draw_document(rng) for _ in range(20_000)]
    texts += [" ".join(OFF_TOPIC), " ".join(SHAPES), " ".join(COLOURS), " ".join(ACTIONS.values())] * 50
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
