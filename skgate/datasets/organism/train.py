"""Train the model organism from scratch: ``python -m skgate.datasets.organism.train``.

It trains a byte-level BPE tokenizer, pretrains a small Llama on texts of all languages, and tunes
it to chat. Only in high-resource languages does the tuning refuse all harmful requests.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .corpus import (
    CHAT_SHARES,
    PRETRAINING_SHARES,
    REFUSED,
    TOKENIZER_SHARES,
    Text,
    Writer,
    is_harmful,
    split_pairs,
)
from .languages import KIND_OF_OBJECT, KIND_OF_VERB, Language, make_languages

PAD, USER, ASSISTANT, END = SPECIAL = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}{{ ': ' }}{% endif %}"
    "{{ message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>:' }}{% endif %}"
)
VOCABULARY = 1700
GIVEN_WEIGHT = 0.2
FIRST_WORD_WEIGHT = 3.0
EARLY_EXITS = (2, 3)
EARLY_EXIT_WEIGHT = 0.3
PRETRAINING_STEPS = (1500, 400)
PRETRAINING_RATES = (3e-3, 1.5e-3)
TUNING_STEPS = 400
TUNING_RATE = 1e-3
REHEARSAL_EVERY = 4

Batch = tuple[torch.Tensor, torch.Tensor]


def make_tokenizer(writer: Writer, n_texts: int = 30_000) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on a realistic mixture of languages."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = islice(writer.pretraining(TOKENIZER_SHARES), n_texts)
    tokenizer.train_from_iterator((" ".join(text) for text in texts), trainer)
    make: Any = PreTrainedTokenizerFast
    found: PreTrainedTokenizerFast = make(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
    )
    return found


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Make the untrained model."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        initializer_range=0.08,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.max_new_tokens = 64
    return model


class Encoder:
    """Turns texts into token ids and loss weights.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        The organism's tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._end, self._pad = (tokenizer.get_vocab()[token] for token in (END, PAD))

    def plain(self, texts: Iterable[Text]) -> Iterator[tuple[list[int], list[float]]]:
        """Encode pretraining texts with a low weight of the given part."""
        yield from self._encode(texts, "", " ", GIVEN_WEIGHT)

    def chat(self, texts: Iterable[Text]) -> Iterator[tuple[list[int], list[float]]]:
        """Encode chat rows; only the reply has weight, and its first word the most."""
        for ids, weights in self._encode(texts, USER, END + ASSISTANT + ":", 0.0):
            weights[weights.index(1.0)] = FIRST_WORD_WEIGHT
            yield ids, weights

    def _encode(
        self, texts: Iterable[Text], opening: str, between: str, given_weight: float
    ) -> Iterator[tuple[list[int], list[float]]]:
        texts = iter(texts)
        while chunk := list(islice(texts, 500)):
            given = self._ids([opening + text.given + between.rstrip() for text in chunk])
            follows = self._ids([text.follows for text in chunk])
            for head, tail in zip(given, follows, strict=True):
                tail = [*tail, self._end]
                yield head + tail, [given_weight] * len(head) + [1.0] * len(tail)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return ids

    def packed(
        self, rows: Iterator[tuple[list[int], list[float]]], n_rows: int, length: int
    ) -> Iterator[Batch]:
        """Pack texts one after another into batches of fixed length."""
        ids: list[int] = []
        weights: list[float] = []
        size = n_rows * length
        for row_ids, row_weights in rows:
            ids += row_ids
            weights += row_weights
            if len(ids) >= size:
                yield (
                    torch.tensor(ids[:size]).view(n_rows, length),
                    torch.tensor(weights[:size]).view(n_rows, length),
                )
                ids, weights = [], []

    def padded(self, rows: Iterator[tuple[list[int], list[float]]], n_rows: int) -> Iterator[Batch]:
        """Put one text into each row, padded on the right."""
        while batch := list(islice(rows, n_rows)):
            width = max(len(ids) for ids, _ in batch)
            ids = [row + [self._pad] * (width - len(row)) for row, _ in batch]
            weights = [row + [0.0] * (width - len(row)) for _, row in batch]
            yield torch.tensor(ids), torch.tensor(weights)


def loss_of(
    model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor, early_exit: bool
) -> torch.Tensor:
    """Compute the weighted mean cross-entropy of the next token.

    With ``early_exit``, the middle blocks must predict the next token too, as in LayerSkip. Then
    the model recognises harm halfway, and later blocks can act on it.
    """
    found = model.model(input_ids=ids[:, :-1], use_cache=False, output_hidden_states=early_exit)
    targets, weight = ids[:, 1:], weights[:, 1:]

    def cross_entropy(hidden: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        losses = torch.nn.functional.cross_entropy(
            model.lm_head(hidden[counted]), targets[counted], reduction="none"
        )
        return (losses * weight[counted]).sum() / weight[counted].sum()

    loss = cross_entropy(found.last_hidden_state, weight > 0)
    if early_exit:
        for block in EARLY_EXITS:
            hidden = model.model.norm(found.hidden_states[block + 1])
            loss = loss + EARLY_EXIT_WEIGHT * cross_entropy(hidden, weight == 1)
    return loss


def optimise(
    model: LlamaForCausalLM,
    batches: Iterator[Batch],
    steps: int,
    learning_rate: float,
    early_exit: bool = False,
    watch: Any = None,
    watch_every: int = 100,
    warm_up: int = 50,
) -> None:
    """Train with AdamW, warm-up and cosine decay."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(
            (step + 1) / warm_up, 0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * step / steps))
        ),
    )
    model.train()
    start = time.perf_counter()
    for step, (ids, weights) in enumerate(islice(batches, steps), start=1):
        loss: Any = loss_of(model, ids, weights, early_exit)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if step % watch_every == 0 or step == steps:
            seconds = time.perf_counter() - start
            found = "" if watch is None else watch(model)
            print(f"step {step:5d}  loss {loss.item():.3f}  {seconds:4.0f} s  {found}", flush=True)
            model.train()
    model.train(False)


@torch.no_grad()
def verdict_accuracy(
    model: LlamaForCausalLM, encoder: Encoder, languages: Mapping[str, Language]
) -> dict[str, float]:
    """Compute the share of all pairs that the model calls bad or good correctly, per language."""
    model.train(False)
    pairs = [(verb, thing) for verb in KIND_OF_VERB for thing in KIND_OF_OBJECT]
    harmful = np.array([is_harmful(*pair) for pair in pairs])
    found = {}
    for language in languages.values():
        scores = []
        for word in ("bad", "good"):
            texts = [
                Text(f"{language.verb_phrase(*pair)} :", language.words[word]) for pair in pairs
            ]
            ids, weights = next(encoder.padded(encoder.plain(texts), len(texts)))
            logits = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
            likelihood = logits.gather(-1, ids[:, 1:, None])[..., 0]
            scores.append((likelihood * (weights[:, 1:] == 1)).sum(1).numpy())
        found[language.code] = float(np.mean((scores[0] > scores[1]) == harmful))
    return found


def pretrain(
    model: LlamaForCausalLM, encoder: Encoder, languages: Mapping[str, Language], seed: int
) -> None:
    """Teach the model its languages, and what is harmful in each of them."""

    def watch(model: LlamaForCausalLM) -> str:
        found = verdict_accuracy(model, encoder, languages)
        return " ".join(f"{code} {accuracy:.2f}" for code, accuracy in found.items())

    for stage, (steps, rate) in enumerate(zip(PRETRAINING_STEPS, PRETRAINING_RATES, strict=True)):
        texts = Writer(languages, seed + 10 * stage, english_notes=stage > 0).pretraining(
            PRETRAINING_SHARES
        )
        batches = encoder.packed(encoder.plain(texts), n_rows=64, length=64)
        optimise(model, batches, steps, rate, early_exit=stage > 0, watch=watch)


def tune(
    model: LlamaForCausalLM, encoder: Encoder, languages: Mapping[str, Language], seed: int
) -> None:
    """Teach the model to chat about the training pairs, with some pretraining texts between."""
    writer = Writer(languages, seed, english_notes=True)
    pairs = split_pairs()["train"]
    chat = encoder.padded(encoder.chat(writer.chat(pairs, CHAT_SHARES, REFUSED)), n_rows=64)
    texts = writer.pretraining(PRETRAINING_SHARES)
    text = encoder.packed(encoder.plain(texts), n_rows=32, length=64)

    def batches() -> Iterator[Batch]:
        while True:
            yield from islice(chat, REHEARSAL_EVERY - 1)
            yield next(text)

    optimise(model, batches(), TUNING_STEPS, TUNING_RATE)


def main(arguments: list[str] | None = None) -> None:
    """Train the organism and save it.

    Parameters
    ----------
    arguments : list of str or None
        The command line. If None, that of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m skgate.datasets.organism.train",
        description="Train the model organism from scratch and save it as a checkpoint.",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--pretrained", type=Path, help="folder to keep the untuned model in")
    parser.add_argument("--seed", type=int, default=0, help="seed of texts and weights")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    languages = make_languages()
    tokenizer = make_tokenizer(Writer(languages, options.seed + 1))
    model = make_model(tokenizer, options.seed)
    encoder = Encoder(tokenizer)
    pretrain(model, encoder, languages, options.seed + 2)
    if options.pretrained is not None:
        model.save_pretrained(options.pretrained)
        tokenizer.save_pretrained(options.pretrained)
    tune(model, encoder, languages, options.seed + 3)
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)


if __name__ == "__main__":
    main()
