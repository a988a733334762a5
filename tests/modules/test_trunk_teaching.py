"""Heads on encoder and pair stack in training: whom they teach, what is hidden, what is logged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from minifold_pl.cli.errors import UserError
from minifold_pl.cli.lightning_cli import instantiate_model
from minifold_pl.constants import CLS, EOS, MASK, NO_LABEL, PAD
from minifold_pl.data.tokenizer import null_tokens
from minifold_pl.losses.objective import weights_at
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.hidden_residues import amino_acids, hidden_residues, hide_residues

HEADS = "trunk_losses={distogram: 0.3, secondary_structure: 0.1, contacts: 0.2, hidden_residues: 0.4}"


def _build(*settings: str) -> DiffusionModule:
    torch.manual_seed(0)
    module = instantiate_model("v13_small.yaml", ["--model.init_args." + s for s in settings])
    assert isinstance(module, DiffusionModule)
    with torch.no_grad():  # maps that start at zero stop every gradient behind them
        for parameter in module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return module


@pytest.fixture(scope="module")
def _taught() -> DiffusionModule:
    return _build(HEADS, "freeze_encoder=false", "noise_draws=2")


@pytest.fixture
def taught(_taught) -> DiffusionModule:
    """All four heads on a jointly trained encoder."""
    return copy.deepcopy(_taught)


@pytest.fixture
def terms(taught, batch) -> Callable[[], dict[str, torch.Tensor]]:
    """The terms of a training step in which some residues are hidden."""

    def compute() -> dict[str, torch.Tensor]:
        tokens = hide_residues(batch.tokens, 0.3, batch.names, 0)
        found = taught.predict_structure(
            batch, tokens, taught.target(batch), taught._training_draws(batch, 0), False
        )
        return taught.objective(*found)

    return compute


def test_the_first_epochs_are_the_trunks_alone(taught, batch) -> None:
    """No denoiser runs; afterwards all terms are there. The terms are those of a whole step."""
    taught.trunk_first = 2
    logged = []
    reached = []
    for epoch in (0, 1, 2):
        taught._trainer = SimpleNamespace(training=True, world_size=1, current_epoch=epoch)
        taught.zero_grad()
        taught.epoch_means.reset()
        taught.training_step(batch, 0).backward()
        logged.append({n.removeprefix("loss/") for n in taught.epoch_means.means() if n.startswith("loss/")})
        reached.append({n.split(".")[0] for n, p in taught.named_parameters() if p.grad is not None})
    trunk = {"distogram", "secondary_structure", "contacts", "hidden_residues", "total"}
    assert logged[0] == logged[1] == trunk
    assert trunk < logged[2] and "fape" in logged[2]
    assert reached[0] == {"encoder", "pair_stack", "trunk_heads"} and "denoiser" in reached[2]


def test_without_losses_of_the_trunk_no_epoch_is_its_own(diffusion, batch) -> None:
    diffusion.trunk_first = 2
    assert not diffusion.teaches_trunk_alone
    with pytest.raises(UserError, match="trunk_first is -1"):
        _build("trunk_first=-1")


def test_the_heads_are_there_where_they_are_asked_for_and_nowhere_else(diffusion, taught) -> None:
    assert not any("trunk_heads" in name for name in diffusion.state_dict())
    new = taught.state_dict().keys() - diffusion.state_dict().keys()
    assert new == {f"trunk_heads.{h}.{p}" for h in ("distogram", "secondary_structure", "residues")
                   for p in ("weight", "bias")}  # fmt: skip
    alone = _build("trunk_losses.distogram=0.3")
    assert alone.state_dict().keys() - diffusion.state_dict().keys() == {
        "trunk_heads.distogram.weight", "trunk_heads.distogram.bias"
    }  # fmt: skip
    assert _build("trunk_losses={}").state_dict().keys() == diffusion.state_dict().keys()


def test_every_term_has_its_weight(taught, terms) -> None:
    weights = weights_at(taught.loss_weights, 1)
    assert terms().keys() == weights.keys()
    assert [weights[k] for k in ("distogram", "secondary_structure", "contacts", "hidden_residues")] == [
        0.3, 0.1, 0.2, 0.4,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reached"),
    [("distogram", {"encoder", "pair_stack", "trunk_heads"}), ("secondary_structure", {"encoder", "trunk_heads"}),
     ("contacts", {"encoder"}), ("hidden_residues", {"encoder", "trunk_heads"})],
)  # fmt: skip
def test_a_term_teaches_the_trunk_and_not_the_denoiser(name: str, reached: set[str], taught, terms) -> None:
    """The auxiliary stack of v11 to v14 keeps its loss to itself; these are to reach what the denoiser reads."""
    terms()[name].backward()
    found = {n.split(".")[0] for n, p in taught.named_parameters() if p.grad is not None and p.grad.any()}
    assert found == reached


def test_a_distogram_reaches_the_pair_stack_of_a_frozen_encoder_and_other_heads_are_refused(batch) -> None:
    module = _build("trunk_losses.distogram=0.3")
    _, terms = module.losses(batch)
    terms["distogram"].backward()
    found = {n.split(".")[0] for n, p in module.named_parameters() if p.grad is not None and p.grad.any()}
    assert found == {"pair_stack", "trunk_heads"}
    with pytest.raises(
        Exception, match="contacts, hidden_residues, secondary_structure, which teach the encoder"
    ):
        _build(HEADS)


def test_stage_1_heads_that_no_loss_reaches_are_not_trained(taught) -> None:
    """A head without a loss would only decay, and stops distributed training, which waits for its gradient."""

    def idle(module: DiffusionModule) -> set[str]:
        return {n.split(".")[0] for n, p in module.encoder.named_parameters() if not p.requires_grad}

    assert idle(taught) == {"classes", "architectures"}
    assert idle(_build("trunk_losses.distogram=0.3", "freeze_encoder=false")) == {
        "classes", "architectures", "contacts"
    }  # fmt: skip
    assert not idle(_build("freeze_encoder=false"))  # runs of before have these in their optimizer's state


def test_hidden_residues_are_drawn_by_key_chain_by_chain(make_batch) -> None:
    batch = make_batch([(f"chain {i}", 20) for i in range(40)])
    shown = hide_residues(batch.tokens, 0.15, batch.names, 0, "hidden", 3)
    hidden = shown.eq(MASK)
    assert 0.11 < hidden[:, 1:21].float().mean() < 0.19
    assert torch.equal(shown[~hidden], batch.tokens[~hidden])
    assert (shown[:, 0] == CLS).all() and (shown[:, 21] == EOS).all()
    assert torch.equal(shown, hide_residues(batch.tokens, 0.15, batch.names, 0, "hidden", 3))
    assert not torch.equal(shown, hide_residues(batch.tokens, 0.15, batch.names, 0, "hidden", 4))
    beside = make_batch([("chain 7", 20), ("long", 33)])
    assert torch.equal(
        hide_residues(beside.tokens, 0.15, beside.names, 0, "hidden", 3)[0, :22], shown[7, :22]
    )


def test_what_was_hidden_is_to_be_guessed_and_nothing_of_the_null_condition(batch) -> None:
    shown = hide_residues(batch.tokens, 0.5, batch.names, 0)
    shown[1] = null_tokens(batch.tokens)[1]
    labels = hidden_residues(shown, batch.tokens)
    assert (labels[1] == NO_LABEL).all()
    known = labels != NO_LABEL
    assert torch.equal(known[[0, 2]], shown[[0, 2], 1:-1].eq(MASK))
    assert torch.equal(labels[known], batch.tokens[:, 1:-1][known] - 4)
    assert not known[batch.tokens[:, 1:-1].eq(PAD)].any()
    assert not amino_acids(torch.tensor([PAD, MASK, CLS, EOS, 24])).any()


def test_validation_guesses_from_a_pass_of_its_own_and_predicts_from_the_whole_sequence(
    taught, batch, monkeypatch
) -> None:
    taught.eval()
    seen: list[int] = []
    plain = taught.encoder.encode
    monkeypatch.setattr(taught.encoder, "encode", lambda t: seen.append(int(t.eq(MASK).sum())) or plain(t))
    logged: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(
        taught, "log_losses", lambda prefix, total, terms, weights, size: logged.append(terms)
    )
    monkeypatch.setattr(type(taught), "current_epoch", property(lambda self: 0))
    with torch.no_grad():
        for _ in range(2):
            taught.validation_step(batch, 0)
    assert seen[0] == 0 and seen[1] > 0
    assert logged[0]["hidden_residues"] == logged[1]["hidden_residues"] > 1


def test_validation_logs_how_many_long_range_contacts_the_distogram_finds(
    taught, make_batch, monkeypatch
) -> None:
    taught.eval()
    monkeypatch.setattr(type(taught), "current_epoch", property(lambda self: 0))
    monkeypatch.setattr(taught, "log_losses", lambda *args: None)
    with torch.no_grad():
        taught.validation_step(make_batch([("a", 40), ("b", 12), ("c", 33)]), 0)
    means = taught.evaluation_means.means()
    assert {"val/precision_long_L", "val/precision_long_L5"} <= means.keys()
    assert all(0 <= means[f"val/precision_long_{k}"] <= 1 for k in ("L", "L5"))


def test_the_trunks_own_terms_are_those_among_all(taught, terms, batch) -> None:
    tokens = hide_residues(batch.tokens, 0.3, batch.names, 0)
    taught.eval()  # without dropout
    alone = taught.trunk_terms(batch, tokens)
    assert alone.keys() == {"distogram", "secondary_structure", "contacts", "hidden_residues"}
    among_all = terms()
    for name, term in alone.items():
        torch.testing.assert_close(term, among_all[name])


def test_a_module_whose_trunk_nothing_teaches_says_so(diffusion, batch) -> None:
    with pytest.raises(ValueError, match="trunk_losses is null"):
        diffusion.trunk_terms(batch, batch.tokens)
