"""What both stages share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from minifold_pl.constants import CLS, EOS
from minifold_pl.modules.base import CHECKPOINT_FORMAT, CHECKPOINT_KEY, check_stage
from minifold_pl.modules.optim import WarmupCosine


@pytest.fixture(params=["contact", "diffusion"])
def module(request):
    return request.getfixturevalue(request.param)


def test_the_example_batch_is_well_formed_and_has_losses(module) -> None:
    batch = module.example_batch(2, 20)
    assert len(batch) == 2
    assert batch.lengths.tolist() == [20, 20]
    assert (batch.tokens[:, 0] == CLS).all()
    assert (batch.tokens[:, -1] == EOS).all()
    step = (batch.ca[:, 1:] - batch.ca[:, :-1]).norm(dim=-1)
    torch.testing.assert_close(step, torch.full_like(step, 3.8), atol=0.4, rtol=0)
    total, terms = module.losses(batch)
    assert torch.isfinite(total)
    assert all(torch.isfinite(term) for term in terms.values())


def test_losses_have_no_side_effects(module, batch) -> None:
    module.eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    torch.manual_seed(1)
    first, _ = module.losses(batch)
    torch.manual_seed(1)
    second, _ = module.losses(batch)
    assert torch.equal(first, second)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_a_term_is_logged_raw_and_weighted_also_where_its_weight_is_0(module) -> None:
    logged: dict[str, float] = {}
    module.log_dict = lambda values, **_: logged.update(values)
    module._trainer = SimpleNamespace(training=False, world_size=1)
    terms = {"a": torch.tensor(2.0), "b": torch.tensor(5.0)}
    module.log_losses("val", torch.tensor(1.0), terms, {"a": 0.5, "b": 0.0}, batch_size=3)
    assert not logged
    module.evaluation_means.add({"val/b": torch.tensor(1.0)}, 1)
    module._log_evaluation_means()
    assert logged == {
        "val/total": 1.0, "val/a": 2.0, "val_weighted/a": 1.0, "val/b": 4.0, "val_weighted/b": 0.0,
    }  # fmt: skip
    module._trainer = SimpleNamespace(training=True)
    for scale, chains in ((1.0, 3), (3.0, 1)):
        module.log_losses(
            "loss", torch.tensor(scale), {"a": torch.tensor(2.0 * scale)}, {"a": 0.5}, batch_size=chains
        )
    assert module.epoch_means.means() == {"loss/total": 1.5, "loss/a": 3.0, "loss_weighted/a": 1.5}


def test_an_epoch_of_accumulated_batches_has_as_many_steps_as_are_taken(module) -> None:
    module._trainer = SimpleNamespace(
        estimated_stepping_batches=0, num_training_batches=10, accumulate_grad_batches=4
    )
    assert module._steps_per_epoch() == 3
    module.schedule_config = WarmupCosine()
    assert module.configure_optimizers()["lr_scheduler"]["interval"] == "epoch"


def test_what_a_checkpoint_says_about_itself_is_plain_and_read_back(module, tmp_path) -> None:
    module.architecture_labels = ("1.10", "3.40")
    checkpoint: dict = {}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "c")
    read = torch.load(tmp_path / "c", weights_only=True)
    assert check_stage(read, module.stage, "c")["format"] == CHECKPOINT_FORMAT
    assert read[CHECKPOINT_KEY]["model_config"] == module.model_config
    module.architecture_labels = ()
    module.on_load_checkpoint(read)
    assert module.architecture_labels == ("1.10", "3.40")


def test_the_labels_of_the_data_do_not_replace_those_of_a_checkpoint(contact) -> None:
    contact._trainer = SimpleNamespace(datamodule=SimpleNamespace(architectures=("2.60",)))
    contact.setup("fit")
    assert contact.architecture_labels == ("2.60",)
    contact._trainer.datamodule.architectures = ("1.10",)
    contact.setup("fit")
    assert contact.architecture_labels == ("2.60",)


def test_more_labels_than_the_head_holds_are_refused_with_the_setting_to_change(contact) -> None:
    many = tuple(f"1.{i}" for i in range(60))
    contact._trainer = SimpleNamespace(datamodule=SimpleNamespace(architectures=many))
    with pytest.raises(ValueError, match=r"60 CATH architectures.*encoder\.init_args\.architectures"):
        contact.setup("fit")
