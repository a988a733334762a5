from __future__ import annotations

import copy

import pytest
import torch

from minifold_pl.modules.load import build_module
from minifold_pl.nn.formulation import Formulated


def built(module, formulation):
    config = copy.deepcopy(module.model_config)
    config["init_args"]["formulation"] = formulation
    return build_module(config)


def test_the_textbook_model_reads_the_same_checkpoint_and_has_the_same_losses(diffusion, batch) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in diffusion.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    plain = built(diffusion, "textbook")
    plain.load_state_dict(diffusion.state_dict())
    assert {m.formulation for m in plain.modules() if isinstance(m, Formulated)} == {"textbook"}
    terms = []
    for module in (diffusion.eval(), plain.eval()):
        torch.manual_seed(1)
        terms.append(module.losses(batch)[1])
    for name, value in terms[0].items():
        assert torch.allclose(value, terms[1][name], rtol=1e-4, atol=1e-5), name


def test_the_default_is_fast(diffusion) -> None:
    assert {m.formulation for m in diffusion.modules() if isinstance(m, Formulated)} == {"fast"}


def test_training_with_cuequivariance_without_a_gpu_is_refused_before_it_starts(
    diffusion, batch, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    module = built(diffusion, "cuequivariance")  # and loading it for sampling is not
    with torch.no_grad():
        module.eval().losses(batch)
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        module.on_fit_start()
