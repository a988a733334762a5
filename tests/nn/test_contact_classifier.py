from __future__ import annotations

import pytest
import torch

from minifold_pl.constants import CLS, EOS, MASK, PAD
from minifold_pl.nn.contact_classifier import ContactClassifier
from minifold_pl.nn.encoder import residue_mask


def test_features_and_logits_have_the_declared_shapes(small_encoder, make_tokens):
    model = small_encoder()
    out = model(make_tokens((9, 14)))
    assert out.features.single.shape == (2, 14, model.d_single)
    assert out.features.pair.shape == (2, 14, 14, model.d_pair)
    assert out.features.pooled.shape == (2, model.d_pooled)
    assert out.class_logits.shape == (2, 4)
    assert out.architecture_logits.shape == (2, 5)
    assert out.contact_logits.shape == (2, 14, 14)


def test_the_residue_mask_leaves_out_cls_eos_and_padding(make_tokens):
    mask = residue_mask(make_tokens((9, 14, 5)))
    assert mask.sum(1).tolist() == [9, 14, 5]


def test_a_chain_does_not_feel_its_batch_or_its_padding(small_encoder, reawaken, make_tokens):
    model, lengths = reawaken(small_encoder()), (9, 14, 5)
    tokens = make_tokens(lengths, to=16)
    together = model(tokens)
    for row, length in enumerate(lengths):
        alone = model(tokens[row : row + 1, : length + 2])
        assert torch.allclose(together.features.single[row, :length], alone.features.single[0], atol=2e-5)
        assert torch.allclose(
            together.features.pair[row, :length, :length], alone.features.pair[0], atol=2e-5
        )
        assert torch.allclose(together.features.pooled[row], alone.features.pooled[0], atol=2e-5)
        assert torch.allclose(together.class_logits[row], alone.class_logits[0], atol=2e-5)
        assert torch.allclose(
            together.contact_logits[row, :length, :length], alone.contact_logits[0], atol=2e-5
        )


def test_padding_is_zero(small_encoder, reawaken, make_tokens):
    out = reawaken(small_encoder())(make_tokens((9, 14, 5)))
    mask = residue_mask(make_tokens((9, 14, 5)))
    both = mask[:, :, None] & mask[:, None]
    assert out.features.single[~mask].eq(0).all()
    assert out.features.pair[~both].eq(0).all()
    assert out.contact_logits[~both].eq(0).all()


def test_contact_logits_are_symmetric(small_encoder, reawaken, make_tokens):
    logits = reawaken(small_encoder())(make_tokens()).contact_logits
    assert torch.allclose(logits, logits.transpose(1, 2), atol=1e-6)
    assert logits.std() > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_batch_of_null_sequences_is_finite_and_keeps_its_mask(dtype, small_encoder, reawaken, make_tokens):
    model, tokens = reawaken(small_encoder()), make_tokens()
    ends = tokens.eq(PAD) | tokens.eq(CLS) | tokens.eq(EOS)
    null = torch.where(ends, tokens, MASK)
    assert torch.equal(residue_mask(null), residue_mask(tokens))
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        out = model(null)
    assert all(x.isfinite().all() for x in (*out.features, *out[1:]))
    assert out.features.single.any(-1)[residue_mask(tokens)].all()


def test_a_row_of_padding_alone_is_finite(small_encoder, reawaken, make_tokens):
    tokens = make_tokens((9, 14))
    tokens[0] = PAD
    out = reawaken(small_encoder())(tokens)
    assert all(x.isfinite().all() for x in (*out.features, *out[1:]))
    assert out.features.pooled[0].eq(0).all()


def test_every_parameter_gets_a_gradient(small_encoder, reawaken, make_tokens):
    model = reawaken(small_encoder(positions=16))
    out = model(make_tokens())
    (
        out.class_logits.square().sum()
        + out.architecture_logits.square().sum()
        + out.contact_logits.square().sum()
    ).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_dropout_acts_in_training_only(reawaken, small_encoder, make_tokens):
    model, tokens = reawaken(small_encoder(dropout=0.5)), make_tokens()
    assert torch.equal(model(tokens).class_logits, model(tokens).class_logits)
    model.train()
    assert not torch.equal(model(tokens).class_logits, model(tokens).class_logits)


def test_a_chain_longer_than_the_position_table_is_refused_with_what_to_do(small_encoder, make_tokens):
    model = small_encoder(positions=16)
    assert model.max_residues == 14
    with pytest.raises(ValueError, match=r"15 residues.*14.*positions=16.*crop"):
        model(make_tokens((15,)))


@pytest.mark.parametrize("kwargs", [{"architectures": 0}, {"heads": 3}, {"pair_heads": 3}])
def test_sizes_that_do_not_fit_are_refused(kwargs):
    name, value = next(iter(kwargs.items()))
    with pytest.raises(ValueError, match=f"heads={value}" if "heads" in name else f"{name}={value}"):
        ContactClassifier(**kwargs)
