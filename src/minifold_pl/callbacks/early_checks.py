"""What a model that has just begun to train makes of fixed noise, and which answers mean that it cannot learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from minifold_pl.geometry.measures import radius_of_gyration
from minifold_pl.metrics.baselines import mirrored_truth
from minifold_pl.metrics.bootstrap import bootstrap_interval
from minifold_pl.metrics.rmsd import rmsd
from minifold_pl.metrics.tm import tm_kabsch
from minifold_pl.metrics.wiener import wiener_smoother
from minifold_pl.modules.diffusion import DiffusionModule
from minifold_pl.modules.one_step import OneStep, mostly_noise, one_step, structure_loss
from minifold_pl.modules.sequence_controls import shuffled_tokens
from minifold_pl.types import ProteinBatch

FINITE: Final = "finite"
LOSS: Final = "loss"
SCALE: Final = "scale"
MIRROR: Final = "mirror"
COLLAPSE: Final = "collapse"
FLOOR: Final = "floor"
SEQUENCE: Final = "sequence"

LITTLE: Final = 225
"""Of 1000. x_t still shows scale and hand: a smoother that knows nothing has TM 0.60 here."""
MIDDLE: Final = 475
"""Of 1000. SNR is 1 here: the smoother has TM 0.38, and a chain is still told from another."""
_LATE: Final = (725, 975)
"""Of 1000. Mostly noise: a good guess must come from the sequence."""


@dataclass(frozen=True, kw_only=True)
class EarlyLimits:
    """What counts as a sign that a model cannot learn. All are far from what models did that went on to learn."""

    equivariance: float = 0.005
    """Share of the chain's size by which the prediction of a turned chain may miss the turned prediction, where the
    denoiser claims to turn along. Rounding gives 3e-7 (v15_small); frames that are blended with the identity give 0.01
    to 0.02 before the first step (v13_small, which claims nothing), and more later."""
    oracle_tm: float = 0.999
    """TM that the sampler reaches, at the least, with a denoiser that knows the answer; it is 1 but for rounding."""
    fall: float = 0.01
    """Share by which the structural loss on fixed noise has fallen, at the least, ``first`` full steps after the
    start. At their own rates, batches of 4 and chains of 30, v15_small falls by 44 % in 200 full steps, v13_small,
    which sees one noised copy of a chain instead of four, by 17 %."""
    scale: float = 2.0
    """Factor by which the radius of gyration of x̂0 may differ from the truth's at t = 225, where x_t shows the size:
    v13_small, v14_small and v15_small are at 1.0 to 1.15 before the first step, v15_small at 0.9 to 1.0 later."""
    mirror: float = 0.1
    """Share by which x̂0 at t = 225 may be nearer (RMSD) to the mirror image than to the truth. x_t shows the hand
    there: before the first step the mirror image is 1.3 to 1.5 times as far as the truth."""
    alike: float = 0.9
    """TM between the x̂0 of different chains at t = 475 from which on they count as one answer for all; that between
    unrelated chains is about 0.1 at the pose of least RMSD, and must be under a half of this."""
    floor: float = 1.25
    """Times the smoother's RMSD at t = 475 that predictions may have. v15_small at its own rate, batches of 4, chains
    of 30: 1.8 before the first step, 1.23 after 200 full steps, 1.15 after 400, 1.11 after 600; v13_small 2.3 and,
    after 200, 1.56."""
    gain: float = 0.01
    """Share of the loss at t ≥ 700 that the real sequence has to gain over a shuffled one; less, and not told apart
    from nothing, counts as not reading it."""

    def __post_init__(self) -> None:
        for name in ("equivariance", "mirror", "fall", "gain"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("oracle_tm", "alike"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is a TM-score above 0 and up to 1, got {getattr(self, name)}")
        for name in ("scale", "floor"):
            if getattr(self, name) <= 1:
                raise ValueError(f"{name} is a factor above 1, got {getattr(self, name)}")


class Finding(NamedTuple):
    """An answer to one question."""

    check: str
    wrong: bool
    told: str
    """What was found and, where it is wrong, what it may mean."""
    figures: dict[str, float]


class Measured(NamedTuple):
    """One-step estimates of some chains, from fixed noise."""

    times: tuple[int, ...]
    loss: Float[Tensor, "k b"]
    """Structural part of the total at final weights."""
    rmsd: Float[Tensor, "k b"]
    """To the truth, Å. Unlike TM it means the same for short chains as for long ones."""
    rmsd_to_mirror: Float[Tensor, "k b"]
    floor: Float[Tensor, "k b"]
    """RMSD of a smoother that knows no sequence."""
    rg_ratio: Float[Tensor, "k b"]
    alike: float
    """Mean TM between the estimates of different chains at t = 475."""
    alike_truth: float
    gain: Float[Tensor, " b"]
    """Loss with a shuffled sequence minus that with the real one, at t ≥ 700."""
    late_loss: float


@torch.no_grad()
def measure(module: DiffusionModule, batches: Sequence[ProteinBatch], seed: int, at_once: int) -> Measured:
    """One step from little, middle and much noise, with the real and with a shuffled sequence.

    Args:
        module: Ready to evaluate.
        batches: Chains with coordinates.
        seed: Key of noise and shuffles: the same chains and seed give the same noise.
        at_once: Noised copies in one call.
    """
    timesteps = module.noise_schedule.timesteps
    times = tuple(sorted(set(scaled(module, (LITTLE, MIDDLE, *_LATE)))))
    late = mostly_noise(times, timesteps)
    hard = [t for t, is_late in zip(times, late.tolist(), strict=True) if is_late]
    middle = times.index(scaled(module, (MIDDLE,))[0])
    found: dict[str, list[Tensor]] = {name: [] for name in ("loss", "rmsd", "mirror", "floor", "rg", "gain")}
    guesses, truths = [], []
    for batch in batches:
        true, mask = batch.ca.float(), batch.ca_mask
        step = one_step(module, batch, times, seed=seed, chains_at_once=at_once)
        loss = structure_loss(module, step)
        tokens = shuffled_tokens(batch, seed)
        other = one_step(module, batch, hard, seed=seed, tokens=tokens, chains_at_once=at_once)
        found["loss"].append(loss)
        found["rmsd"].append(_each(step.x0, lambda x0: rmsd(x0, true, mask)))  # noqa: B023 - called at once
        mirror = mirrored_truth(true, mask)
        found["mirror"].append(_each(step.x0, lambda x0: rmsd(x0, mirror, mask)))  # noqa: B023
        found["floor"].append(_floor(module, step, batch))
        size = radius_of_gyration(true, mask)
        found["rg"].append(_each(step.x0, lambda x0: radius_of_gyration(x0, mask) / size))  # noqa: B023
        found["gain"].append((structure_loss(module, other) - loss[late.to(loss.device)]).mean(0))
        guesses += list(_chains(step.x0[middle], mask))
        truths += list(_chains(true, mask))
    columns = {name: torch.cat(parts, -1).double().cpu() for name, parts in found.items()}
    return Measured(
        times, columns["loss"], columns["rmsd"], columns["mirror"], columns["floor"], columns["rg"],
        _alike(guesses), _alike(truths), columns["gain"], float(columns["loss"][late].mean()),
    )  # fmt: skip


def mean_loss(found: Measured) -> float:
    """Of the chains whose loss is finite; NaN where there is none."""
    return float(found.loss[found.loss.isfinite()].mean())


def finite_losses(found: Measured) -> Finding:
    """The losses of all chains, at every noise level; a few of them are the business of the guard for such batches."""
    share = float(found.loss.isfinite().double().mean())
    told = f"{share:.0%} of the losses on fixed noise are finite"
    if share < 0.5:
        told += ": look at the data and at half precision, or lower the learning rate"
    return Finding(FINITE, share < 0.5, told, {"finite_losses": share})


def fallen(found: Measured, start: float, limits: EarlyLimits) -> Finding:
    """The loss beside that of the same chains with the same noise before the first step."""
    now = mean_loss(found)
    wrong = not now <= (1 - limits.fall) * start
    told = f"the loss on fixed noise went from {start:.4g} at the start to {now:.4g}"
    if wrong:
        told += ": it does not fall. Look at the learning rate, frozen parts and the wiring of the losses"
    return Finding(LOSS, wrong, told, {"loss": now, "loss_at_start": start})


def right_scale(module: DiffusionModule, found: Measured, limits: EarlyLimits) -> Finding:
    """The radius of gyration of x̂0 over the truth's, where x_t shows the size."""
    ratio = float(found.rg_ratio[_place(module, found, LITTLE)].median())
    wrong = not 1 / limits.scale <= ratio <= limits.scale
    told = f"predictions at little noise have {ratio:.2f} times the true radius of gyration"
    if wrong:
        told += ": a unit is taken for another (Å and 10 Å?), or the answer has collapsed"
    return Finding(SCALE, wrong, told, {"rg_ratio": ratio})


def right_hand(module: DiffusionModule, found: Measured, limits: EarlyLimits) -> Finding:
    """RMSD of x̂0 to the mirror image beside that to the truth, where x_t shows the hand."""
    place = _place(module, found, LITTLE)
    to_truth, to_mirror = found.rmsd[place], found.rmsd_to_mirror[place]
    gap = bootstrap_interval(to_mirror - (1 - limits.mirror) * to_truth)
    wrong = gap.high < 0
    told = (
        f"predictions at little noise are {float(to_truth.mean()):.2f} Å from the truth, "
        f"{float(to_mirror.mean()):.2f} Å from its mirror image"
    )
    if wrong:
        told += ": the model learns mirrored chains; look at axes, dihedral signs and targets"
    figures = {"rmsd_little": float(to_truth.mean()), "rmsd_to_mirror": float(to_mirror.mean())}
    return Finding(MIRROR, wrong, told, figures)


def told_apart(found: Measured, limits: EarlyLimits) -> Finding:
    """How alike the answers for different chains are, where the noised chains are not."""
    wrong = found.alike >= limits.alike and found.alike_truth < limits.alike / 2
    told = f"different chains' predictions have TM {found.alike:.3f} to each other, the chains {found.alike_truth:.3f}"
    if wrong:
        told += ": one answer for all; the denoiser does not look at what it is given"
    return Finding(COLLAPSE, wrong, told, {"alike": found.alike, "alike_truth": found.alike_truth})


def above_floor(module: DiffusionModule, found: Measured, limits: EarlyLimits) -> Finding:
    """RMSD of x̂0 at t = 475 beside that of a smoother of noise that has learned nothing."""
    place = _place(module, found, MIDDLE)
    gap = bootstrap_interval(found.rmsd[place] - limits.floor * found.floor[place])
    mine, floor = float(found.rmsd[place].mean()), float(found.floor[place].mean())
    wrong = gap.low > 0
    told = f"at middle noise predictions are {mine:.2f} Å from the truth, a smoother that knows nothing {floor:.2f} Å"
    if wrong:
        told += ": the model has not learned even what a chain is; more steps, a higher rate, or a fault"
    return Finding(FLOOR, wrong, told, {"rmsd_middle": mine, "wiener_rmsd_middle": floor})


def reads_sequence(found: Measured, limits: EarlyLimits) -> Finding:
    """What the real sequence of training chains gains over a shuffled one, where x_t is mostly noise."""
    gain = bootstrap_interval(found.gain)
    share = gain.mean / max(abs(found.late_loss), 1e-12)
    wrong = not gain.low > 0 and not share >= limits.gain
    told = (
        f"at t ≥ 700 a shuffled sequence is worse than the real one by {gain.mean:.4g} ({gain.low:.2g} to "
        f"{gain.high:.2g}) of {found.late_loss:.4g}"
    )
    if wrong:
        told += (
            ": the model does not read the sequence, not even of chains that it trains on. Look at encoder (trained or "
            "from a checkpoint?), pair stack and labels"
        )
    return Finding(SEQUENCE, wrong, told, {"sequence_gain": gain.mean, "late_loss": found.late_loss})


def scaled(module: DiffusionModule, times: Sequence[int]) -> tuple[int, ...]:
    """Timesteps of 1000 on the module's schedule."""
    timesteps = module.noise_schedule.timesteps
    return tuple(min(max(round(t * timesteps / 1000), 1), timesteps - 1) for t in times)


def _place(module: DiffusionModule, found: Measured, t: int) -> int:
    return found.times.index(scaled(module, (t,))[0])


def _each(x0: Tensor, score: Callable[[Tensor], Tensor]) -> Float[Tensor, "k b"]:
    return torch.stack([score(one) for one in x0])


def _floor(module: DiffusionModule, step: OneStep, batch: ProteinBatch) -> Float[Tensor, "k b"]:
    rows = []
    for t, noised in zip(step.times, step.noised, strict=True):
        alpha_bar = module.noise_schedule.alpha_bar(torch.full((len(batch),), t), torch.float64)
        smooth = wiener_smoother(noised.cpu(), alpha_bar, batch.residue_mask.cpu(), step.unit)
        rows.append(rmsd(smooth.to(noised), batch.ca.float(), batch.ca_mask))
    return torch.stack(rows)


def _chains(x: Tensor, mask: Tensor) -> Iterator[Float[Tensor, "l 3"]]:
    for row, valid in zip(x.cpu(), mask.cpu(), strict=True):
        yield row[valid]


def _alike(chains: Sequence[Float[Tensor, "l 3"]]) -> float:
    """Mean TM over all pairs, each cut to the shorter one's length, at the pose of least RMSD; NaN for one chain."""
    scores = []
    for i, one in enumerate(chains):
        for other in chains[:i]:
            length = min(len(one), len(other))
            every = torch.ones(1, length, dtype=torch.bool)
            scores.append(tm_kabsch(one[None, :length], other[None, :length], every))
    return float(torch.cat(scores).mean()) if scores else float("nan")


def figures(findings: Sequence[Finding]) -> Mapping[str, float]:
    """All numbers, under the names that they are logged by."""
    return {f"early/{name}": value for finding in findings for name, value in finding.figures.items()}
