"""Trains `idlegrid-tiny` from nothing: data, tokenizer, model, scores.

    .venv/bin/python training/tiny/train.py

Two processes of one thread each compute half a batch each and share their gradients once a step: two threads would wait
for each other in every operation. The blocks are compiled, which needs a C++ compiler; `--no-compile` does without, a
fifth slower. Everything follows from `--seed`, unless the time is spent before the steps are done: the learning rate
then falls with the time, so that whatever the machine the training ends in an orderly way.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from batches import IGNORED, Batch, training_batches
from evaluate import FOLDER, probe
from tokenizer import train_tokenizer
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

TOKENIZER_SEED, DATA_SEED = 10, 11
"""Added to `--seed`. The held-out questions have a seed of their own (`evaluate.SEED`) and are kept apart by hash."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=28.0, help="from start to end; on a slow machine fewer steps")
    parser.add_argument("--batch-tokens", type=int, default=4096, help="of all processes together")
    parser.add_argument("--vocab", type=int, default=1280)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=5e-3)
    parser.add_argument("--processes", type=int, default=2, help="one thread each")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def new_model(options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights, its embedding tied to its head.

    Heads of 64, together twice as wide as the model, two query heads to a key head: with heads of 32 the same loss took
    a quarter more tokens.
    """
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden,
        intermediate_size=int(options.hidden * 8 / 3) // 64 * 64,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 32,
        num_key_value_heads=options.hidden // 64,
        head_dim=64,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model.set_attn_implementation("eager")  # on short sequences on a CPU twice as fast backwards as the fused kernel
    if options.compile:
        for layer in model.model.layers:
            layer.compile(dynamic=False)  # for each width of rows once, for all layers together
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=256, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def optimizers(model: Qwen3ForCausalLM, options: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for this process's share of the matrices of the blocks, AdamW for the embedding and the norms."""
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    mine = matrices(model)[dist.get_rank() :: dist.get_world_size()]
    return [
        torch.optim.Muon(mine, lr=options.muon_lr, weight_decay=0.02, momentum=0.95, nesterov=True),
        torch.optim.AdamW(rest, lr=options.adam_lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True),
    ]


def matrices(model: Qwen3ForCausalLM) -> list[nn.Parameter]:
    """The blocks' matrices, the same order in every process."""
    return [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]


def rate(done: float) -> float:
    """The learning rate as a share of its peak, after `done` (0 to 1) of the training: up, level, down to nothing."""
    return min(1.0, done / 0.02 + 0.02, (1.0 - done) / 0.5 + 0.01)


def loss_of(model: Qwen3ForCausalLM, batch: Batch) -> Tensor:
    """Mean cross entropy in nats over the tokens that have a label."""
    wanted = batch.labels != IGNORED
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=batch.inputs, attention_mask=batch.mask, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[wanted])  # only where something is asked: (N, V)
    return F.cross_entropy(logits.float(), batch.labels[wanted])


def share_gradients(model: Qwen3ForCausalLM) -> None:
    """Every process goes on with the mean of all processes' gradients."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def share_matrices(model: Qwen3ForCausalLM) -> None:
    """Every process takes over the matrices that the others' Muon has changed."""
    for source in range(dist.get_world_size()):
        changed = matrices(model)[source :: dist.get_world_size()]
        flat = torch.cat([matrix.data.flatten() for matrix in changed])
        dist.broadcast(flat, src=source)
        for matrix, new in zip(changed, torch.split(flat, [matrix.numel() for matrix in changed]), strict=True):
            matrix.data.copy_(new.view_as(matrix))


def step(model: Qwen3ForCausalLM, steps_of: list[torch.optim.Optimizer], batch: Batch) -> float:
    """One update of all processes; returns this process's loss, in nats."""
    loss = loss_of(model, batch)
    torch.autograd.backward(loss)
    share_gradients(model)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in steps_of:
        optimizer.step()
    share_matrices(model)
    model.zero_grad(set_to_none=True)
    return loss.item()


def agreed(*values: float) -> list[float]:
    """The means over all processes, the same in each."""
    shared = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(shared)
    return (shared / dist.get_world_size()).tolist()


def train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    batches: Iterator[Batch],
    options: argparse.Namespace,
) -> dict[str, float]:
    """Trains in place; returns what there is to tell about it. The first process prints."""
    steps_of = optimizers(model, options)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in steps_of]
    first, seen, loss, done, begun = dist.get_rank() == 0, 0, 0.0, 0, time.time()
    progress = 0.0  # 0 to 1: of the steps or of the time, whichever is further
    model.train()
    while progress < 1:
        batch = next(batches)
        for optimizer, peak in zip(steps_of, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(progress)
        now, spent = agreed(step(model, steps_of, batch), time.time() - options.start)
        done += 1
        progress = max(done / options.steps, spent / (60 * options.minutes))
        loss += max(0.02, 1 / done) * (now - loss)  # a mean over about the last 50 steps
        seen += batch.inputs.numel() * dist.get_world_size()
        if first and done % 50 == 0:
            print(f"step {done} loss {loss:.4f} {seen / 1e6:.2f} M tokens {spent:.0f} s {progress:.0%}", flush=True)
        if first and done % 500 == 0:
            with torch.compiler.set_stance("force_eager"):  # the probe's batches are of all shapes
                shares = probe(model, tokenizer)
            print({kind: round(share, 2) for kind, share in shares.items()}, flush=True)
    return {
        "steps": done,
        "tokens": seen,
        "final_loss": round(loss, 4),
        "seconds": round(time.time() - options.start),
        "cpu_seconds_per_process": round(time.process_time()),
        "tokens_per_second": round(seen / (time.time() - begun)),
    }


def run(rank: int, options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast, meeting: str) -> None:
    """One of the training processes; the first one saves and scores the model."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=options.processes)
    torch.manual_seed(options.seed)  # the same weights to begin with everywhere
    model = new_model(options, tokenizer)
    batches = training_batches(tokenizer, options.seed + DATA_SEED, options.batch_tokens, rank, options.processes)
    told = train(model, tokenizer, batches, options)
    dist.destroy_process_group()
    if rank == 0:
        model.to(torch.bfloat16).save_pretrained(options.out)
        tokenizer.save_pretrained(options.out)
        told["parameters"] = sum(p.numel() for p in model.parameters())
        print(json.dumps(told), flush=True)


def main() -> None:
    options = arguments()
    options.start = time.time()
    tokenizer = train_tokenizer(options.vocab, options.seed + TOKENIZER_SEED)
    with tempfile.TemporaryDirectory() as folder:
        spawn(run, args=(options, tokenizer, f"{folder}/meeting"), nprocs=options.processes)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
