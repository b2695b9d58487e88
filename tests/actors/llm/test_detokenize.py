from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.decoders import DecodeStream

from idlegrid.actors.llm.detokenize import Detokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog, don't you think? It's 17 + 25 = 42.",
    "Größe, naïve café, Straße; Привет, мир! 你好世界 こんにちは 🙂👩‍👩‍👧 e\u0301 a\u0308",
] * 5
SPECIAL = ["<|end|>", "<|user|>"]


def byte_level() -> Tokenizer:
    """GPT-2, Llama 3, Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def sentencepiece() -> Tokenizer:
    """Llama 2, Mistral, Gemma: pieces with ▁, bytes for what is not in the vocabulary."""
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdehiloqrtwxyz,.!", "▁the", "▁q", "�", "é"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token=None))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def unigram() -> Tokenizer:
    """T5."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=[*SPECIAL, "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    """BERT: pieces are joined, and punctuation moves to its word."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=160, special_tokens=[*SPECIAL, "[UNK]"], show_progress=False)
    )
    return tokenizer


def bpe_with_suffix() -> Tokenizer:
    """GPT-1: the end of a word is in its token, and becomes a space once another follows."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.BPEDecoder()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=160, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False),
    )
    return tokenizer


KINDS = [byte_level, sentencepiece, unigram, word_piece, bpe_with_suffix]
kind = cache(lambda make: make())
texts = st.text(
    alphabet=st.sampled_from("the quick fox. don't é🙂👩‍👧 你好 \u0301\u200d\ufffd\n▁"), max_size=40
) | st.text(max_size=20)


def in_pieces(draw, ids):
    """Random cuts, empty pieces among them."""
    cuts = sorted(draw(st.lists(st.integers(0, len(ids)), max_size=len(ids) + 1)))
    return [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]


def check(tokenizer: Tokenizer, pieces, *, prompt=(), skip_special=True) -> None:
    whole = [*prompt, *(i for piece in pieces for i in piece)]
    everything = tokenizer.decode(whole, skip_special_tokens=skip_special)
    expected = everything[len(tokenizer.decode(list(prompt), skip_special_tokens=skip_special)) :]
    detokenizer, text = Detokenizer(tokenizer, skip_special=skip_special, prompt=prompt), ""
    for piece in pieces:
        text += detokenizer.push(piece)
        assert expected.startswith(text), "text was given that changed later"
    assert text + detokenizer.finish() == expected
    assert detokenizer.finish() == ""


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
@settings(max_examples=50, deadline=None)
@given(text=texts, data=st.data())
def test_texts_come_out_whole(make, text, data):
    tokenizer = kind(make)
    check(tokenizer, in_pieces(data.draw, tokenizer.encode(text).ids))


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), skip_special=st.booleans())
def test_any_tokens_even_bytes_that_are_no_text_come_out_as_decode_gives_them(make, data, skip_special):
    tokenizer = kind(make)
    ids = st.lists(st.integers(0, tokenizer.get_vocab_size() + 3), max_size=60)  # also ids that don't exist
    check(tokenizer, in_pieces(data.draw, data.draw(ids)), skip_special=skip_special)


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
@settings(max_examples=50, deadline=None)
@given(before=texts, after=texts, data=st.data())
def test_a_text_goes_on_from_its_prompt(make, before, after, data):
    tokenizer = kind(make)
    ids = tokenizer.encode(before + after).ids
    cut = data.draw(st.integers(0, len(ids)))
    everything, prompt = tokenizer.decode(ids), tokenizer.decode(ids[:cut])
    if everything.startswith(prompt):  # else the cut is inside a character: there is no text "after the prompt"
        check(tokenizer, in_pieces(data.draw, ids[cut:]), prompt=ids[:cut])


@settings(max_examples=50, deadline=None)
@given(data=st.data(), make=st.sampled_from(KINDS))
def test_what_is_given_depends_on_the_tokens_alone(data, make):
    """A stream that another replica takes over goes on where the first one was."""
    tokenizer = kind(make)
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=50))
    one_by_one, at_once = Detokenizer(tokenizer), Detokenizer(tokenizer)
    assert "".join(one_by_one.push([i]) for i in ids) == at_once.push(ids)


def test_a_leading_space_is_kept_where_a_text_goes_on():
    tokenizer = kind(sentencepiece)
    prompt, word = tokenizer.encode("the").ids, [tokenizer.token_to_id("▁the")]
    assert Detokenizer(tokenizer).push(word) == "the"
    assert Detokenizer(tokenizer, prompt=prompt).push(word) == " the"


def test_a_character_is_given_when_it_is_whole_and_not_later():
    tokenizer = kind(byte_level)
    detokenizer = Detokenizer(tokenizer)
    alphabet = {character: tokenizer.token_to_id(character) for character in pre_tokenizers.ByteLevel.alphabet()}
    smile = [
        alphabet[character] for character in pre_tokenizers.ByteLevel().pre_tokenize_str("🙂")[0][0] if character != "Ġ"
    ]
    assert [detokenizer.push([i]) for i in smile] == ["", "", "", "🙂"]


def test_the_libraries_own_stream_is_not_enough():
    """If this fails, `DecodeStream` has become exact: use it."""
    tokenizer = kind(byte_level)
    ids = [tokenizer.token_to_id(c) for c in "Ã"] * 3  # the first byte of a two-byte character, three times
    stream = DecodeStream(skip_special_tokens=True)
    assert "".join(stream.step(tokenizer, i) or "" for i in ids) != tokenizer.decode(ids)
    check(tokenizer, [[i] for i in ids])
