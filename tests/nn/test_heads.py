from __future__ import annotations

import pytest
import torch

from minifold_pl.nn.heads import AuxDistanceStack, DetachedDistogram, RgHead

SMALL = {"d_single_in": 16, "d_pair_in": 8, "d": 12, "blocks": 2, "heads": 2, "d_head": 4, "outer_hidden": 4}


def index_of(mask):
    return torch.arange(mask.shape[1]).expand(mask.shape)


def test_distance_logits_are_symmetric_with_one_for_each_edge(reawaken, make_features, make_mask):
    mask = make_mask()
    logits = reawaken(AuxDistanceStack(**SMALL))(make_features(mask), mask, index_of(mask))
    assert logits.shape == (3, 14, 14, 31)
    assert torch.allclose(logits, logits.transpose(1, 2), atol=1e-5)
    assert logits.std() > 0.01


def test_the_aux_loss_never_reaches_the_main_pair_stack(small_stack, reawaken, make_features, make_mask):
    main, aux, mask = reawaken(small_stack()), reawaken(AuxDistanceStack(**SMALL)), make_mask()
    features = make_features(mask)
    main(features, mask, index_of(mask))
    aux(features, mask, index_of(mask)).square().sum().backward()
    assert all(p.grad is None for p in main.parameters())
    assert [n for n, p in aux.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert {id(p) for p in main.parameters()}.isdisjoint(id(p) for p in aux.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_heads_are_finite_in_half_precision(dtype, reawaken, make_features, make_mask):
    mask = make_mask((14, 0))
    features = make_features(mask)
    with torch.autocast("cpu", dtype=dtype):
        logits = reawaken(AuxDistanceStack(**SMALL))(features, mask, index_of(mask))
        log_rg = reawaken(RgHead(16, 8))(features.pooled, mask)
    assert logits.isfinite().all() and log_rg.isfinite().all()


def test_fewer_than_two_distance_bins_are_refused():
    with pytest.raises(ValueError, match="distance_bins=1"):
        AuxDistanceStack(distance_bins=1)


def test_the_radius_of_gyration_starts_at_the_law_of_globular_proteins(make_mask):
    mask = make_mask((100, 60))
    log_rg = RgHead(16, 8)(torch.randn(2, 16), mask)
    assert torch.allclose(log_rg.exp(), torch.tensor([12.66, 10.43]), atol=0.01)


def test_the_radius_of_gyration_depends_on_features_and_length_not_on_padding(reawaken, make_mask):
    head, pooled = reawaken(RgHead(16, 8)), torch.randn(2, 16)
    short = head(pooled, make_mask((10, 20)))
    assert torch.equal(short, head(pooled, make_mask((10, 20), to=32)))
    assert not torch.allclose(short, head(pooled + 1, make_mask((10, 20))))


def test_a_detached_distogram_reads_the_main_pair_stack_and_teaches_it_nothing(
    small_stack, reawaken, make_features, make_mask
):
    main, head, mask = reawaken(small_stack()), reawaken(DetachedDistogram(12, 96, 8)), make_mask()
    features = make_features(mask)
    pair = main(features, mask, index_of(mask))
    logits = head(features, mask, index_of(mask), pair)
    assert logits.shape == (3, 14, 14, 96)
    assert torch.allclose(logits, logits.transpose(1, 2), atol=1e-5)
    assert not torch.allclose(logits, head(features, mask, index_of(mask), pair + torch.randn_like(pair)))
    logits.square().sum().backward()
    assert all(p.grad is None for p in main.parameters())
    assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_detached_distogram_without_anything_to_read_is_refused(make_features, make_mask):
    mask = make_mask()
    with pytest.raises(ValueError, match="give `pair`"):
        DetachedDistogram(12)(make_features(mask), mask, index_of(mask))
