"""Scores a model folder on held-out questions: greedy `transformers.generate`, right means equal to the letter.

.venv/bin/python training/tiny/evaluate.py [FOLDER] [--count 200] [--show 3]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from dialogues import Dialogue, held_out_dialogues
from tasks import KINDS
from tokenizer import encode
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

FOLDER = Path(__file__).resolve().parents[2] / "models" / "idlegrid-tiny"
SEED = 2


@dataclass(frozen=True, slots=True)
class Score:
    """How many held-out questions of a kind were answered right."""

    right: int
    total: int
    wrong: tuple[tuple[str, str, str], ...]
    """(prompt, right answer, what the model said) of those that were not."""

    @property
    def share(self) -> float:
        """0 to 1."""
        return self.right / self.total


@torch.inference_mode()
def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, dialogues: list[Dialogue], batch: int = 64
) -> list[str]:
    """What the model says to the last question of each dialogue, the ones before answered right. Greedy."""
    prompts = [
        tokenizer.apply_chat_template(dialogue.messages()[:-1], add_generation_prompt=True, tokenize=False)
        for dialogue in dialogues
    ]
    said: dict[int, str] = {}
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch):
        indices = order[start : start + batch]
        inputs = tokenizer(
            [prompts[i] for i in indices],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_token_type_ids=False,
        )
        output = model.generate(**inputs, max_new_tokens=200, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        said |= dict(zip(indices, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True))
    return [said[index] for index in range(len(prompts))]


def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, kind: str, count: int, seed: int) -> Score:
    """The score on up to `count` held-out questions of a kind."""
    dialogues = held_out_dialogues(kind, count, seed)
    said = answers(model, tokenizer, dialogues)
    last = [dialogue.tasks[-1] for dialogue in dialogues]
    wrong = tuple(
        (task.prompt, task.answer, text) for task, text in zip(last, said, strict=True) if text != task.answer
    )
    return Score(len(last) - len(wrong), len(last), wrong)


def evaluate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, count: int = 200, seed: int = SEED
) -> dict[str, Score]:
    """The score of every kind."""
    model.eval()
    return {kind: score(model, tokenizer, kind, count, seed) for kind in KINDS}


@torch.inference_mode()
def probe(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, count: int = 24, seed: int = 3
) -> dict[str, float]:
    """The share of right answers of each kind without generating: greedy decoding writes an answer if and only if
    each of its tokens is the likeliest one after the right ones before it. Other questions than `evaluate` asks.
    """
    shares = {}
    for kind in KINDS:
        dialogues = held_out_dialogues(kind, count, seed)
        encoded = [encode(tokenizer, dialogue) for dialogue in dialogues]
        before = [len(encode(tokenizer, replace(dialogue, tasks=dialogue.tasks[:-1]))[0]) for dialogue in dialogues]
        inputs = pad_sequence([torch.tensor(ids) for ids, _ in encoded], batch_first=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            likeliest = model(input_ids=inputs).logits.argmax(-1)
        shares[kind] = sum(
            all(likeliest[row, place - 1] == ids[place] for place in range(max(start, 1), len(ids)) if written[place])
            for row, ((ids, written), start) in enumerate(zip(encoded, before, strict=True))
        ) / len(dialogues)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--count", type=int, default=200, help="questions of each kind")
    parser.add_argument("--show", type=int, default=0, help="wrong answers of each kind to print")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(options.folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(options.folder)
    for kind, result in evaluate(model, tokenizer, options.count).items():
        print(f"{kind:15} {result.right:4}/{result.total:<4} {result.share:6.1%}")
        for prompt, right, text in result.wrong[: options.show]:
            print(f"    {prompt!r}\n      right {right!r}\n      said  {text!r}")


if __name__ == "__main__":
    main()
