"""One option over the parts' own."""

from __future__ import annotations

import copy

import pytest
import torch

from minifold_pl.modules.draws import Draws
from minifold_pl.modules.load import build_module
from minifold_pl.modules.recomputing import recompute_activations


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("pair_stack", (True, False)),
        ("denoiser", (False, True)),
        ("both", (True, True)),
        ("off", (False, False)),
        (False, (False, False)),  # what YAML makes of off
        (None, (True, False)),  # as v13's config sets the parts
    ],
)
def test_the_option_wins_over_the_settings_of_the_parts(diffusion, what, expected) -> None:
    config = copy.deepcopy(diffusion.model_config)
    config["init_args"]["checkpoint_activations"] = what
    module = build_module(config)
    assert (module.pair_stack.checkpoint_activations, module.denoiser.checkpoint_activations) == expected


def test_another_name_is_refused(diffusion) -> None:
    with pytest.raises(ValueError, match="pair_stack, denoiser, both, off"):
        recompute_activations(diffusion, "everything")  # type: ignore[arg-type]


def kept_bytes(module, batch) -> tuple[int, dict[str, torch.Tensor]]:
    """How much is kept for the backward pass, and the gradients of all parameters that x0 depends on."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage._cdata, storage)
        return tensor

    target = module.target(batch)
    draws = Draws(torch.full((len(batch),), 400), torch.ones_like(target.x0))
    module.zero_grad()
    torch.manual_seed(5)  # dropout is part of what has to be the same
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        prediction, _ = module.predict_structure(batch, batch.tokens, target, draws, False)
    prediction.x0.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    return sum(s.nbytes() for s in kept.values()), gradients


@pytest.mark.parametrize("training", [False, True])
def test_less_is_kept_and_gradients_are_the_same(diffusion, make_batch, training) -> None:
    diffusion.train(training)
    batch = make_batch([("one", 32), ("two", 30)])
    with torch.no_grad():
        for parameter in diffusion.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    found = {}
    for what in ("off", "pair_stack", "denoiser", "both"):
        recompute_activations(diffusion, what)
        found[what] = kept_bytes(diffusion, batch)
    sizes = {what: size for what, (size, _) in found.items()}
    assert sizes["both"] < min(sizes["pair_stack"], sizes["denoiser"])
    assert max(sizes["pair_stack"], sizes["denoiser"]) < sizes["off"]
    expected = found["off"][1]
    for name, _ in diffusion.pair_stack.named_parameters():
        assert expected[f"pair_stack.{name}"].any(), name  # else equal gradients would say nothing
    assert any(name.startswith("denoiser.") for name in expected)
    for what in ("pair_stack", "denoiser", "both"):
        assert found[what][1].keys() == expected.keys()
        for name, gradient in found[what][1].items():
            assert torch.equal(gradient, expected[name]), (what, name)
