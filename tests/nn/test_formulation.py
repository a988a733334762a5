"""The fast forms against the textbook's, on weights that are all awake."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from minifold_pl.geometry.frames import ca_frames
from minifold_pl.nn import cuequivariance
from minifold_pl.nn.axial import AxialAttention
from minifold_pl.nn.formulation import Formulated, set_formulation
from minifold_pl.nn.ipa import FrameUpdate, InvariantPointAttention
from minifold_pl.nn.outer_product import OuterProduct
from minifold_pl.nn.transition import Transition
from minifold_pl.nn.triangle import TriangleMultiplication
from minifold_pl.types import Frames

LENGTHS = (24, 17)
MODULES = {
    "triangle, outgoing": lambda: TriangleMultiplication(128, 64),
    "triangle, incoming": lambda: TriangleMultiplication(128, 64, outgoing=False),
    "row attention": lambda: AxialAttention(128),
    "column attention": lambda: AxialAttention(128, axis="column"),
    "transition": lambda: Transition(128, 512),
    "outer product": lambda: OuterProduct(128, 128),
    "point attention": lambda: InvariantPointAttention(128, 128, heads=4, d_head=32),
    "frame update": lambda: FrameUpdate(128, 64),
}


@pytest.fixture(params=MODULES)
def module(request, reawaken):
    return reawaken(MODULES[request.param]())


@pytest.fixture
def arguments(make_frames, make_mask):
    """What a module of this room is called with, and where its result means something."""

    def make(module, lengths=LENGTHS):
        mask = make_mask(lengths)
        both = mask[:, :, None] & mask[:, None]
        b, n = mask.shape
        single, pair = torch.randn(b, n, 128), torch.randn(b, n, n, 128)
        match module:
            case InvariantPointAttention():
                return (single, pair, make_frames(b, n), mask), mask
            case FrameUpdate():
                return (single, make_frames(b, n), mask), mask
            case OuterProduct():
                return (single,), both
            case Transition():
                return (pair,), both
            case _:
                return (pair, mask), both

    return make


def doubled(value):
    if isinstance(value, Frames):
        return Frames(*(x.double() for x in value))
    return value.double() if value.is_floating_point() else value


def flat(result: Tensor | Frames) -> Tensor:
    return (
        torch.cat((result.rotation.flatten(2), result.translation), -1)
        if isinstance(result, Frames)
        else result
    )


def reference(module):
    exact = copy.deepcopy(module).double()
    set_formulation(exact, "textbook")
    return exact


def error(module, args, where) -> float:
    exact = flat(reference(module)(*map(doubled, args)))[where]
    difference = flat(module(*args)).double()[where] - exact
    # of an update of frames only the change counts
    start = flat(args[1])[where].double() if isinstance(module, FrameUpdate) else 0
    return (difference.norm() / (exact - start).norm()).item()


@pytest.mark.parametrize("formulation", ["fast", "textbook"])
def test_single_precision_is_within_a_millionth_of_double(formulation, module, arguments):
    set_formulation(module, formulation)
    assert error(module, *arguments(module)) < 1e-6


def test_bfloat16_is_within_six_thousandths_of_double(module, arguments):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert error(module, *arguments(module)) < 6e-3


def test_gradients_are_those_of_the_textbook(module, arguments):
    args, where = arguments(module)
    fast, plain = copy.deepcopy(module).double(), reference(module)
    inputs = [doubled(a) for a in args]
    leaves = [
        x.requires_grad_()
        for a in inputs
        for x in (a if isinstance(a, Frames) else (a,))
        if x.is_floating_point()
    ]
    gradients = []
    for form in (fast, plain):
        out = flat(form(*inputs))[where]
        direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
        gradients.append(torch.autograd.grad((out * direction).sum(), (*leaves, *form.parameters())))
    for a, b in zip(*gradients, strict=True):
        assert (a - b).norm() <= 1e-8 * (b.norm() + 1)  # a key's constant has none: the softmax drops it


def test_padding_changes_nothing_in_either_form(module, arguments):
    args, where = arguments(module)
    chain = len(LENGTHS) - 1
    short = LENGTHS[chain]

    def cut(value):
        if isinstance(value, Frames):
            return Frames(*map(cut, value))
        pairwise = value.ndim == 4
        return value[chain:, :short, :short] if pairwise else value[chain:, :short]

    for formulation in ("fast", "textbook"):
        set_formulation(module, formulation)
        padded, alone = flat(module(*args))[chain, where[chain]], flat(module(*map(cut, args)))
        alone = alone[cut(where) if where.ndim == 2 else torch.ones(alone.shape[:-1], dtype=torch.bool)]
        assert torch.allclose(padded, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("formulation", ["fast", "textbook"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("gap", [10.0, 1000.0])  # model units: 100 Å, 10,000 Å
def test_chain_breaks_and_far_residues(gap, dtype, formulation, reawaken, make_chain, make_mask):
    ipa = reawaken(InvariantPointAttention(24, 10, heads=3, d_head=8))
    set_formulation(ipa, formulation)
    mask = make_mask((14, 9, 0))
    bonded = mask & mask.roll(-1, 1)
    bonded[:, 5] = False
    chain = make_chain(mask) + torch.where(torch.arange(14)[:, None] > 5, gap, 0.0)
    frames = ca_frames(chain, mask, bonded)
    single, pair = torch.randn(3, 14, 24), torch.randn(3, 14, 14, 10)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        out = ipa(single, pair, frames, mask).float()
    out.square().sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in ipa.parameters())
    exact = reference(ipa)(single.double(), pair.double(), doubled(frames), mask)
    # The expanded square cancels digits as the square of the extent; at 10,000 Å 2 % are left.
    bound = {10.0: 1e-5, 1000.0: 0.05}[gap] if dtype == torch.float32 else 0.05
    assert (out - exact).norm() / exact.norm() < bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_chain_of_512_is_finite_in_half_precision(dtype, module, arguments):
    narrow = {
        "TriangleMultiplication": lambda: TriangleMultiplication(8, 4),
        "AxialAttention": lambda: AxialAttention(8, heads=1, d_head=8),
        "InvariantPointAttention": lambda: InvariantPointAttention(128, 8, heads=2, d_head=8),
    }
    name = type(module).__name__
    mask = torch.ones(1, 512, dtype=torch.bool)
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        if name == "InvariantPointAttention":
            args, _ = arguments(FrameUpdate(128), (512,))
            out = narrow[name]()(args[0], 3 * torch.randn(1, 512, 512, 8), args[1], mask)
        elif name in narrow:
            out = narrow[name]()(3 * torch.randn(1, 512, 512, 8), mask)
        else:
            out = flat(module(*arguments(module, (64,))[0]))
    assert out.isfinite().all()


def test_one_switch_reaches_every_module_and_leaves_the_weights_alone(small_stack, small_denoiser):
    network = torch.nn.ModuleList([small_stack(), small_denoiser()])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    set_formulation(network, "textbook")
    formulated = [m for m in network.modules() if isinstance(m, Formulated)]
    assert {type(m) for m in formulated} >= {
        AxialAttention, FrameUpdate, InvariantPointAttention, OuterProduct, Transition, TriangleMultiplication
    }  # fmt: skip
    assert {m.formulation for m in formulated} == {"textbook"}
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_a_whole_pair_stack_and_denoiser_agree(
    reawaken, small_stack, small_denoiser, make_mask, make_features, make_chain, make_condition
):
    mask = make_mask()
    stack, denoiser = reawaken(small_stack()), reawaken(small_denoiser(), 0.5)
    features, condition = make_features(mask), make_condition(mask)
    places, chain, t = torch.arange(14).expand(3, 14), make_chain(mask), torch.tensor([3, 50, 99])
    pairs, estimates = [], []
    for formulation in ("fast", "textbook"):
        set_formulation(stack, formulation)
        set_formulation(denoiser, formulation)
        pairs.append(stack(features, mask, places))
        estimates.append(denoiser(chain, t, condition))
    assert torch.allclose(*pairs, rtol=1e-4, atol=1e-5)
    assert torch.allclose(estimates[0].x0, estimates[1].x0, rtol=1e-4, atol=1e-4)
    assert torch.allclose(estimates[0].rotation, estimates[1].rotation, rtol=1e-4, atol=1e-4)


def test_an_unknown_formulation_is_named(small_stack):
    with pytest.raises(ValueError, match="formulation='quick': choose one of fast, textbook, cuequivariance"):
        set_formulation(small_stack(), "quick")


def test_without_a_gpu_cuequivariance_says_what_it_needs_when_trained_and_is_not_needed_else(
    monkeypatch, reawaken, make_mask
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    module = reawaken(TriangleMultiplication(10, 32))
    pair, mask = torch.randn(3, 14, 14, 10), make_mask()
    exact = module(pair, mask)
    set_formulation(module, "cuequivariance")
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        module(pair, mask)
    assert torch.equal(module.eval()(pair, mask), exact)


def test_without_the_package_cuequivariance_names_its_extra(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(__import__("sys").modules, "cuequivariance_torch", None)
    with pytest.raises(ValueError, match=r"minifold-pl\[cuda\]"):
        cuequivariance.required()


def test_cuequivariance_is_handed_what_the_fast_form_computes(monkeypatch, reawaken, make_mask):
    """By its documented signature: projections and gates each with the rows of a, then of b."""

    def documented(x, *, direction, mask, p_in_weight, p_in_bias, g_in_weight, g_in_bias, eps, **w):
        z = torch.nn.functional.layer_norm(x, x.shape[-1:], w["norm_in_weight"], w["norm_in_bias"], eps)
        gated = (z @ g_in_weight.T + g_in_bias).sigmoid() * (z @ p_in_weight.T + p_in_bias) * mask[..., None]
        a, b = gated.chunk(2, dim=-1)
        sums = torch.einsum("bikd,bjkd->bijd" if direction == "outgoing" else "bkid,bkjd->bijd", a, b)
        y = torch.nn.functional.layer_norm(
            sums, sums.shape[-1:], w["norm_out_weight"], w["norm_out_bias"], eps
        )
        gate = (z @ w["g_out_weight"].T + w["g_out_bias"]).sigmoid()
        return gate * (y @ w["p_out_weight"].T + w["p_out_bias"])

    monkeypatch.setattr(cuequivariance, "required", lambda: documented)
    mask = make_mask()
    both = mask[:, :, None] & mask[:, None]
    for outgoing in (True, False):
        module = reawaken(TriangleMultiplication(10, 32, outgoing))
        pair = torch.randn(3, 14, 14, 10)
        assert torch.allclose(
            cuequivariance.triangle_update(module, pair, mask)[both],
            module(pair, mask)[both],
            rtol=1e-4,
            atol=1e-5,
        )


def test_cuequivariance_names_a_width_that_it_does_not_have(monkeypatch, make_mask):
    monkeypatch.setattr(cuequivariance, "required", lambda: None)
    with pytest.raises(ValueError, match="triangle_hidden=6"):
        cuequivariance.triangle_update(TriangleMultiplication(10, 6), torch.randn(3, 14, 14, 10), make_mask())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("outgoing", [True, False])
def test_cuequivariance_agrees_on_a_gpu(outgoing, reawaken, make_mask):
    pytest.importorskip("cuequivariance_torch")
    module = reawaken(TriangleMultiplication(128, 64, outgoing)).cuda()
    pair, mask = torch.randn(2, 64, 64, 128, device="cuda"), make_mask((64, 40)).cuda()
    both = mask[:, :, None] & mask[:, None]
    exact = module(pair, mask)[both]
    set_formulation(module, "cuequivariance")
    assert (module(pair, mask)[both] - exact).norm() / exact.norm() < 1e-3  # its kernels may use TF32
