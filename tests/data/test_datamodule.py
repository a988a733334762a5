import contextlib
import io
from dataclasses import replace
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from minifold_pl.data.datamodule import ProteinDataModule
from minifold_pl.data.store import ChainStore, write_store
from minifold_pl.data.synthetic import SyntheticConfig
from minifold_pl.types import ProteinBatch


class Recorder(lightning.LightningModule):
    """Learns nothing; writes down what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": []}

    def _note(self, part, batch):
        assert isinstance(batch, ProteinBatch)
        self.seen[part].append((self.current_epoch, batch.names, float(batch.coords.sum())))

    def training_step(self, batch, batch_index):
        self._note("train", batch)
        return self.weight * batch.coords.mean()

    def validation_step(self, batch, batch_index):
        self._note("val", batch)

    def test_step(self, batch, batch_index):
        pass

    def predict_step(self, batch, batch_index):
        return batch.names

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def epoch(self, part, epoch):
        return [rest for seen, *rest in self.seen[part] if seen == epoch]


@pytest.fixture
def path(make_record, make_store):
    train = [make_record(f"t{i}", 12 + i, cath=("1.10.530",) if i % 2 else ("3.40.50",)) for i in range(21)]
    held_out = [make_record(f"{s}{i}", 15 + i, split=s) for s in ("validation", "test") for i in range(5)]
    return str(make_store(*train, *held_out).path)


def _fit(path, epochs=2, **options):
    module = Recorder()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    data = ProteinDataModule(path, batch_size=4, max_length=20, random_rotation=True, **options)
    trainer.fit(module, datamodule=data)
    return module, trainer, data


def test_a_trainer_sees_every_training_chain_once_an_epoch_in_a_new_order(path):
    module, _, _ = _fit(path)
    orders = [[name for names, _ in module.epoch("train", e) for name in names] for e in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(f"t{i}" for i in range(21))
    assert orders[0] != orders[1]


def test_validation_is_the_same_in_every_epoch(path):
    module, _, _ = _fit(path)
    assert module.epoch("val", 0) == module.epoch("val", 1) != []


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_no_difference_in_any_epoch(path, workers):
    assert _fit(path, num_workers=workers)[0].seen == _fit(path)[0].seen


def test_loading_leaves_the_global_random_state_alone(path):
    state = torch.get_rng_state()
    data = ProteinDataModule(path, batch_size=4)
    data.setup("fit")
    for _ in data.train_dataloader():
        pass
    assert torch.equal(torch.get_rng_state(), state)


def test_a_trainer_predicts_and_tests_every_test_chain(path):
    module, trainer, data = _fit(path, epochs=1)
    trainer.test(module, datamodule=data, verbose=False)
    predicted = trainer.predict(module, datamodule=data)
    assert sorted(name for names in predicted for name in names) == [f"test{i}" for i in range(5)]


def test_ranks_get_parts_of_the_same_epoch(path):
    parts = []
    for rank in (0, 1):
        data = ProteinDataModule(path, batch_size=4)
        data.setup("fit")
        data.trainer = type("Trainer", (), {"global_rank": rank, "world_size": 2})()
        parts.append([name for batch in data.train_dataloader() for name in batch.names])
    assert set(parts[0]) | set(parts[1]) == {f"t{i}" for i in range(21)}
    assert abs(len(parts[0]) - len(parts[1])) <= 4


def test_options_reach_the_training_chains_alone(path):
    data = ProteinDataModule(
        path, batch_size=2, limit_train=3, limit_validation=2, max_length=14, long_chains="crop"
    )
    data.setup()
    assert (len(data.train_chains), len(data.validation_chains), len(data.test_chains)) == (3, 2, 5)
    assert data.validation_chains.random_rotation is False
    assert max(data.train_chains.lengths) == 14
    assert data.architectures == ("1.10", "3.40")


def test_a_path_without_store_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"absent does not exist; make one with `minifold-pl data"):
        ProteinDataModule(str(tmp_path / "absent")).setup("fit")
    with pytest.raises(ValueError, match="num_workers is -1"):
        ProteinDataModule("x", num_workers=-1)


def test_a_synthetic_set_is_made_once_and_never_mistaken_for_another(tmp_path):
    path = tmp_path / "synthetic"
    config = SyntheticConfig(n=60, seed=5)
    data = ProteinDataModule(str(path), synthetic=config)
    assert data.architectures  # known before setup
    written = (path / "store.json").stat().st_mtime_ns
    again = ProteinDataModule(str(path), synthetic=config)
    again.prepare_data()
    again.setup()
    assert (path / "store.json").stat().st_mtime_ns == written
    assert len(ChainStore.open(path)) == 60
    with pytest.raises(ValueError, match="give another path"):
        ProteinDataModule(str(path), synthetic=replace(config, seed=6)).setup()
    ProteinDataModule(str(path)).setup()  # any store is welcome where none is specified


def test_the_command_line_explains_every_argument():
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
        LightningCLI(
            Recorder,
            ProteinDataModule,
            run=True,
            args=["fit", "--help"],
            subclass_mode_model=False,
            save_config_callback=None,
        )
    text = " ".join(output.getvalue().split())
    assert "--data.path PATH Folder of a store" in text
    assert "--data.max_length MAX_LENGTH Longest chain or crop in residues" in text
    assert "--data.long_chains {crop,drop}" in text


def test_a_model_says_which_chains_it_can_use_and_the_others_are_told(tmp_path, make_record, capsys):
    coords = np.full((12, 4, 3), np.nan, dtype=np.float32)
    write_store(tmp_path / "store", [make_record("a"), make_record("b", coords=coords)])
    for needs, names in (("none", ["a", "b"]), ("ca", ["a"])):
        data = ProteinDataModule(str(tmp_path / "store"))
        data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(needs=needs))
        with contextlib.suppress(ValueError):  # there is no validation chain
            data.setup("fit")
        assert [data.train_chains[i].name for i in range(len(data.train_chains))] == names
    assert (
        "train: chains left out, which this model cannot use: 1 with no coordinates"
        in capsys.readouterr().err
    )


def test_a_batch_reaches_a_gpu_without_the_host_waiting(path, monkeypatch):
    data = ProteinDataModule(path, batch_size=2)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    asked = []
    monkeypatch.setattr(ProteinBatch, "to", lambda self, *args, **kwargs: asked.append((args, kwargs)))
    for device in (torch.device("cuda", 0), torch.device("cpu")):
        data.transfer_batch_to_device(batch, device, 0)
    assert asked == [
        ((torch.device("cuda", 0),), {"non_blocking": True}),
        ((torch.device("cpu"),), {"non_blocking": False}),
    ]


def test_loaders_keep_their_workers_and_pin_what_goes_to_a_gpu(path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    data = ProteinDataModule(path, batch_size=2, num_workers=2)
    data.setup("fit")
    loader = data.train_dataloader()
    assert loader.persistent_workers
    assert loader.pin_memory
    assert hasattr(ProteinBatch, "pin_memory")  # else torch would leave it where it is
