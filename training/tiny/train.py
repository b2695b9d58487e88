"""Trains `idlegrid-tiny` from nothing: data, tokenizer, model, scores.

    nice -n 15 .venv/bin/python training/tiny/train.py

Everything follows from `--seed`; on the same machine, with the same number of threads, a run gives the same weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from batches import IGNORED, training_batches
from evaluate import FOLDER, evaluate
from tokenizer import train_tokenizer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TOKENIZER_SEED, DATA_SEED = 10, 11
"""Added to `--seed`. The held-out questions have a seed of their own (`evaluate.SEED`) and are kept apart by hash."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=float, default=8.0, help="million tokens to train on, padding included")
    parser.add_argument("--batch-tokens", type=int, default=3072)
    parser.add_argument("--max-length", type=int, default=400, help="longest dialogue, tokens")
    parser.add_argument("--vocab", type=int, default=768)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, default=200, help="held-out questions of each kind at the end")
    return parser.parse_args()


def new_model(options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights: heads of 32, two query heads to a key head, embedding tied to the head."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden,
        intermediate_size=int(options.hidden * 8 / 3) // 64 * 64,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 32,
        num_key_value_heads=options.hidden // 64,
        head_dim=32,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")  # on short sequences on a CPU twice as fast backwards as the fused kernel
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=256, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def optimizers(model: LlamaForCausalLM, options: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the embedding and the norms."""
    blocks = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(blocks, lr=options.muon_lr, weight_decay=0.02, momentum=0.95, nesterov=True),
        torch.optim.AdamW(rest, lr=options.adam_lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
    ]


def rate(done: float) -> float:
    """The learning rate as a share of its peak, after `done` (0 to 1) of the training: up, level, down to nothing."""
    return min(1.0, done / 0.02 + 0.02, (1.0 - done) / 0.5 + 0.01)


def loss_of(model: LlamaForCausalLM, inputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy in nats over the tokens that have a label; inputs and labels (B, T) int64."""
    wanted = labels != IGNORED
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state  # (B, T, H)
        logits = model.lm_head(hidden[wanted])  # only where something is asked: (N, V)
    return F.cross_entropy(logits.float(), labels[wanted])


def train(model: LlamaForCausalLM, batches: Iterator[tuple[Tensor, Tensor]], options: argparse.Namespace) -> dict:
    """Trains in place; returns what there is to tell about it."""
    steps_of = optimizers(model, options)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in steps_of]
    goal, seen, answered, step, smooth = options.tokens * 1e6, 0, 0, 0, 0.0
    start = time.perf_counter()
    model.train()
    while seen < goal:
        inputs, labels = next(batches)
        for optimizer, peak in zip(steps_of, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(seen / goal)
        loss = loss_of(model, inputs, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in steps_of:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        value = loss.item()
        smooth += max(0.02, 1 / (step + 1)) * (value - smooth)  # a mean over about the last 50 steps
        seen, answered, step = seen + inputs.numel(), answered + int((labels != IGNORED).sum()), step + 1
        if step % 50 == 0:
            spent = time.perf_counter() - start
            print(
                f"step {step} loss {smooth:.4f} {seen / 1e6:.2f} M tokens {spent:.0f} s {seen / spent:.0f}/s",
                flush=True,
            )
    spent = time.perf_counter() - start
    return {
        "steps": step,
        "tokens": seen,
        "answer_tokens": answered,
        "final_loss": round(smooth, 4),
        "seconds": round(spent),
        "tokens_per_second": round(seen / spent),
    }


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    tokenizer = train_tokenizer(options.vocab, options.seed + TOKENIZER_SEED)
    model = new_model(options, tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters", flush=True)
    batches = training_batches(tokenizer, options.seed + DATA_SEED, options.batch_tokens, options.max_length)
    told = train(model, batches, options)
    model = model.to(torch.bfloat16)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(json.dumps(told), flush=True)
    for kind, result in evaluate(model.float(), tokenizer, options.count).items():
        print(f"{kind:15} {result.right:4}/{result.total:<4} {result.share:6.1%} {result.wrong[:2]}", flush=True)


if __name__ == "__main__":
    main()
