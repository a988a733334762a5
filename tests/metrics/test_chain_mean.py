import pickle

import pytest
import torch
import torch.multiprocessing as mp

from minifold_pl.metrics.chain_mean import ChainMean
from minifold_pl.metrics.rmsd import rmsd
from minifold_pl.metrics.structure import STRUCTURE_SCORES, structure_metrics, structure_scores
from minifold_pl.metrics.tm import tm_kabsch


def itself(values):
    return values


def test_mean_is_over_chains_not_over_batches():
    metric = ChainMean(itself)
    metric.update(torch.tensor([1.0, 2.0, 3.0]))
    metric.update(torch.tensor([6.0]))
    assert metric.compute().item() == 3
    assert metric.chains == 4


def test_undefined_scores_are_left_out():
    metric = ChainMean(itself)
    metric.update(torch.tensor([1.0, float("nan"), 2.0]))
    assert metric.compute().item() == 1.5
    assert metric.chains == 2


def test_mean_of_nothing_is_nan():
    metric = ChainMean(itself)
    metric.update(torch.tensor([float("nan")]))
    assert metric.compute().isnan()


def test_infinite_score_is_not_hidden():
    metric = ChainMean(itself)
    metric.update(torch.tensor([1.0, float("inf")]))
    assert metric.compute() == float("inf")


def test_reset_forgets_everything():
    metric = ChainMean(itself)
    metric.update(torch.tensor([5.0]))
    metric.compute()
    metric.reset()
    metric.update(torch.tensor([1.0]))
    assert metric.compute().item() == 1
    assert metric.chains == 1


def test_forward_gives_the_batch_and_keeps_the_sum():
    metric = ChainMean(itself)
    assert metric(torch.tensor([4.0])).item() == 4
    assert metric(torch.tensor([2.0])).item() == 2
    assert metric.compute().item() == 3


def test_gradient_of_a_prediction_is_not_kept(make_batch, make_walk):
    true, mask = make_batch([make_walk(20)])
    pred = true.clone().requires_grad_()
    metric = ChainMean(rmsd)
    metric.update(pred + torch.randn_like(pred), true, mask)
    assert not metric.total.requires_grad


def test_structure_collection_gives_the_means_of_the_scores(make_batch, make_walk):
    batches = []
    for lengths in ((30, 20), (25,)):
        true, mask = make_batch([make_walk(n) for n in lengths])
        batches.append((true + torch.randn_like(true), true, mask))
    metrics = structure_metrics(prefix="val/")
    for batch in batches:
        metrics.update(*batch)
    means = metrics.compute()
    assert means.keys() == {f"val/{name}" for name in STRUCTURE_SCORES}
    for name, score in STRUCTURE_SCORES.items():
        expected = torch.cat([score(*batch) for batch in batches]).mean()
        torch.testing.assert_close(means[f"val/{name}"], expected)


def test_structure_scores_are_one_number_a_chain(make_batch, make_walk):
    true, mask = make_batch([make_walk(30), make_walk(20)])
    scores = structure_scores(true, true, mask, mask)
    alone = {"ca_bond_share", "clashes", "helix_content", "strand_content"}
    assert {*STRUCTURE_SCORES, *alone, "ss_agreement"} == scores.keys()
    assert all(value.shape == (2,) for value in scores.values())
    torch.testing.assert_close(scores["ca_bond_share"], torch.ones(2))


def test_searched_scores_are_added_on_request(make_batch, make_walk):
    true, mask = make_batch([make_walk(30), make_walk(20)])
    plain, searched = (structure_scores(true, true, mask, mask, searched=s) for s in (False, True))
    assert searched.keys() - plain.keys() == {"tm_score", "gdt_ts", "gdt_ha"}
    torch.testing.assert_close(searched["tm_score"], torch.ones(2))


def test_collection_travels_to_another_process_by_pickle():
    metrics = structure_metrics()
    assert pickle.loads(pickle.dumps(metrics)).keys() == metrics.keys()


def _tm_of_half_the_chains(rank, world, port, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous{port}", rank=rank, world_size=world
    )
    data = torch.load(f"{folder}/data.pt", weights_only=True)
    metric = ChainMean(tm_kabsch)
    for k in range(rank, len(data["true"]), world):
        metric.update(*(data[name][k : k + 1] for name in ("pred", "true", "mask")))
    torch.save(
        {"mean": metric.compute(), "local": metric.chains},
        f"{folder}/rank{rank}.pt",
    )
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_report_the_mean_over_all_chains(tmp_path, make_batch, make_walk):
    # Five chains: the ranks hold 3 and 2, so a mean of the two means would be wrong.
    true, mask = make_batch([make_walk(n) for n in (30, 20, 25, 40, 35)])
    pred = true + torch.randn_like(true) * torch.linspace(0.2, 4, 5)[:, None, None]
    torch.save({"pred": pred, "true": true, "mask": mask}, tmp_path / "data.pt")
    mp.spawn(_tm_of_half_the_chains, args=(2, 0, str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    expected = tm_kabsch(pred, true, mask).mean()
    for rank in ranks:
        torch.testing.assert_close(rank["mean"], expected)
    assert [rank["local"].item() for rank in ranks] == [3, 2]
