import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minifold_pl.constants import AMINO_ACIDS, CLS, EOS, MASK, PAD, UNK
from minifold_pl.data.tokenizer import decode, encode, normalise, null_tokens


def test_tokens_are_those_of_the_specification():
    # CLS 2, EOS 3, the amino acids from 4 in alphabetical order, UNK 24.
    assert encode("ACWYX").tolist() == [2, 4, 5, 22, 23, 24, 3]


@given(st.text(alphabet=AMINO_ACIDS + "X"))
def test_decoding_an_encoded_sequence_gives_it_back(sequence):
    assert decode(encode(sequence)) == sequence


@given(st.text())
def test_any_text_keeps_its_length_and_every_foreign_letter_is_counted(text):
    clean, unknown = normalise(text)
    assert len(clean) == len(text) == len(encode(text)) - 2
    assert unknown == clean.count("X") == int((encode(text) == UNK).sum())


def test_lower_case_is_read_as_upper_case():
    assert normalise("acdB") == ("ACDX", 1)


def test_null_tokens_mask_residues_and_leave_the_attention_mask():
    tokens = torch.tensor([[CLS, 4, UNK, EOS, PAD], [CLS, 9, EOS, PAD, PAD]])
    nulled = null_tokens(tokens)
    assert nulled.tolist() == [[CLS, MASK, MASK, EOS, PAD], [CLS, MASK, EOS, PAD, PAD]]
    assert torch.equal(nulled != PAD, tokens != PAD)
    assert decode(nulled[0]) == "__"


def test_decoding_refuses_tokens_outside_the_vocabulary():
    with pytest.raises(ValueError, match=r"0…24"):
        decode(np.array([2, 25, 3]))
