"""The trainer itself: a packed dialogue is as good as alone, and what the script leaves can be loaded."""

import itertools
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from batches import IGNORED, WIDTHS, training_batches
from tokenizer import train_tokenizer
from torch.nn import functional as F  # noqa: N812 - the field's name for it

SCRIPT = Path(__file__).resolve().parents[2] / "training" / "tiny" / "train.py"


def test_a_packed_dialogue_gets_the_logits_that_it_gets_alone():
    from train import new_model

    tokenizer = train_tokenizer(512, seed=3, dialogues=500)
    torch.manual_seed(0)
    model = new_model(Namespace(hidden=64, layers=2, compile=False), tokenizer).eval()
    batch = next(training_batches(tokenizer, 5, WIDTHS[-1], pool=64))
    with torch.inference_mode():
        ids = batch.inputs[:1]
        packed = model(input_ids=ids, attention_mask=batch.mask[:1].float()).logits[0]
        seen = (batch.mask[0, 0] == 0).tolist()
        starts = sorted({row.index(True) for row in seen})
        for start, end in itertools.pairwise([*starts, len(seen)]):
            alone = model(input_ids=ids[:, start:end]).logits[0]
            torch.testing.assert_close(packed[start:end], alone, rtol=1e-4, atol=1e-5)
            assert start == 0 or not torch.allclose(
                alone, model(input_ids=ids[:, :end]).logits[0, start:], atol=1e-3
            )  # the control: what stands before would be seen
    assert len(starts) > 2


def test_the_loss_counts_answers_alone():
    from train import loss_of, new_model

    tokenizer = train_tokenizer(512, seed=3, dialogues=500)
    torch.manual_seed(0)
    model = new_model(Namespace(hidden=64, layers=1, compile=False), tokenizer)
    batch = next(training_batches(tokenizer, 5, WIDTHS[-1], pool=64))
    with torch.no_grad():
        logits = model(input_ids=batch.inputs, attention_mask=batch.mask.float()).logits
        expected = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)
        assert loss_of(model, batch).item() == pytest.approx(expected.item(), rel=0.01)  # it computes in bfloat16


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_train_a_model_that_can_be_loaded(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    small = ("--steps=3", "--batch-tokens=512", "--hidden=64", "--layers=2", "--vocab=400", "--no-compile")
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), f"--out={tmp_path}", *small], capture_output=True, text=True, timeout=280
    )
    assert ran.returncode == 0, ran.stderr
    assert '"steps": 3' in ran.stdout
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16
    ids = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template([{"role": "user", "content": "1+1"}])["input_ids"]
    assert model(input_ids=torch.tensor([ids])).logits.isfinite().all()
