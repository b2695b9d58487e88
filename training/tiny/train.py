"""Trains `idlegrid-tiny` from nothing: data, tokenizer, model, scores.

    nice -n 15 .venv/bin/python training/tiny/train.py

Two processes of one thread each compute half a batch each and share their gradients once a step: on a busy machine
several times as fast as two threads that wait for each other in every operation. Everything follows from `--seed`.
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
from batches import IGNORED, training_batches
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
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-tokens", type=int, default=1536, help="of each process")
    parser.add_argument("--max-length", type=int, default=400, help="longest dialogue, tokens")
    parser.add_argument("--vocab", type=int, default=640)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=5e-3)
    parser.add_argument("--processes", type=int, default=2, help="one thread each")
    return parser.parse_args()


def new_model(options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights: heads of 32, two query heads to a key head, embedding tied to the head."""
    config = Qwen3Config(
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
    model = Qwen3ForCausalLM(config)
    model.set_attn_implementation("eager")  # on short sequences on a CPU twice as fast backwards as the fused kernel
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


def loss_of(model: Qwen3ForCausalLM, inputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy in nats over the tokens that have a label; inputs and labels (B, T) int64."""
    wanted = labels != IGNORED
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state  # (B, T, H)
        logits = model.lm_head(hidden[wanted])  # only where something is asked: (N, V)
    return F.cross_entropy(logits.float(), labels[wanted])


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
    for index, matrix in enumerate(matrices(model)):
        dist.broadcast(matrix.data, src=index % dist.get_world_size())


def step(model: Qwen3ForCausalLM, steps_of: list[torch.optim.Optimizer], inputs: Tensor, labels: Tensor) -> float:
    """One update of all processes; returns the mean of their losses, in nats."""
    loss = loss_of(model, inputs, labels)
    torch.autograd.backward(loss)
    share_gradients(model)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in steps_of:
        optimizer.step()
    share_matrices(model)
    model.zero_grad(set_to_none=True)
    mean = loss.detach()
    dist.all_reduce(mean)
    return mean.item() / dist.get_world_size()


def train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    batches: Iterator[tuple[Tensor, Tensor]],
    options: argparse.Namespace,
) -> dict[str, float]:
    """Trains in place; returns what there is to tell about it. The first process prints."""
    steps_of = optimizers(model, options)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in steps_of]
    first, seen, loss, start = dist.get_rank() == 0, 0, 0.0, time.perf_counter()
    model.train()
    for done in range(options.steps):
        inputs, labels = next(batches)
        for optimizer, peak in zip(steps_of, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(done / options.steps)
        now = step(model, steps_of, inputs, labels)
        loss += max(0.02, 1 / (done + 1)) * (now - loss)  # a mean over about the last 50 steps
        seen += inputs.numel() * dist.get_world_size()  # the other processes' batches are as long, nearly
        if first and (done + 1) % 50 == 0:
            spent = time.perf_counter() - start
            line = f"step {done + 1} loss {loss:.4f} {seen / 1e6:.2f} M tokens {spent:.0f} s {seen / spent:.0f}/s"
            print(line, flush=True)
        if first and (done + 1) % 250 == 0:
            print({kind: round(share, 2) for kind, share in probe(model, tokenizer).items()}, flush=True)
    spent = time.perf_counter() - start
    return {
        "steps": options.steps,
        "tokens": seen,
        "final_loss": round(loss, 4),
        "seconds": round(spent),
        "cpu_seconds_per_process": round(time.process_time()),
        "tokens_per_second": round(seen / spent),
    }


def run(rank: int, options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast, meeting: str) -> None:
    """One of the training processes; the first one saves and scores the model."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=options.processes)
    torch.manual_seed(options.seed)  # the same weights to begin with everywhere
    model = new_model(options, tokenizer)
    # each its own dialogues
    batches = training_batches(tokenizer, options.seed + DATA_SEED + rank, options.batch_tokens, options.max_length)
    told = train(model, tokenizer, batches, options)
    dist.destroy_process_group()
    if rank == 0:
        model.to(torch.bfloat16).save_pretrained(options.out)
        tokenizer.save_pretrained(options.out)
        told["parameters"] = sum(p.numel() for p in model.parameters())
        print(json.dumps(told), flush=True)


def main() -> None:
    options = arguments()
    tokenizer = train_tokenizer(options.vocab, options.seed + TOKENIZER_SEED)
    with tempfile.TemporaryDirectory() as folder:
        spawn(run, args=(options, tokenizer, f"{folder}/meeting"), nprocs=options.processes)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
