"""What each score is: what it looks at, what the truth scores, whether it can tell a mirror image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from minifold_pl.metrics import classes
from minifold_pl.metrics import functional as F
from minifold_pl.metrics.chain_mean import ChainMean, ChainScore

Takes = Literal["pair", "trace", "bonded trace", "backbone", "samples", "contacts"]
"""(pred, true, mask), (ca, mask), (ca, mask, bonded), (backbone, mask), (samples, mask) or (logits, ca, mask)."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One score; its name is its key in :data:`SCORES`."""

    function: ChainScore
    """One number a chain."""
    metric: type[ChainMean]
    """Its mean over chains, batches and processes."""
    takes: Takes
    """Arguments."""
    truth: float | None
    """What the truth, given as the prediction, scores; None where that depends on the chain: of real ones some have
    clashes, and some fewer contacts than the pairs that are asked for."""
    sees_mirror: bool | None
    """Whether the mirror image of a chain of four residues or more scores something else: what looks at distances
    alone cannot. None where that depends on the chain: the secondary structure of a Cα trace is told by signed angles,
    but also by distances, and of every eighth real chain a mirror image keeps all of it."""
    higher_is_better: bool | None
    """None where neither is."""


SCORES: Final[dict[str, Score]] = {
    "tm_score": Score(
        function=F.tm_score,
        metric=classes.TMScore,
        takes="pair",
        truth=1.0,
        sees_mirror=True,
        higher_is_better=True,
    ),
    "tm_kabsch": Score(
        function=F.tm_kabsch,
        metric=classes.TMKabsch,
        takes="pair",
        truth=1.0,
        sees_mirror=True,
        higher_is_better=True,
    ),
    "rmsd": Score(
        function=F.rmsd,
        metric=classes.RMSD,
        takes="pair",
        truth=0.0,
        sees_mirror=True,
        higher_is_better=False,
    ),
    "gdt_ts": Score(
        function=F.gdt_ts,
        metric=classes.GDTTS,
        takes="pair",
        truth=1.0,
        sees_mirror=True,
        higher_is_better=True,
    ),
    "gdt_ha": Score(
        function=F.gdt_ha,
        metric=classes.GDTHA,
        takes="pair",
        truth=1.0,
        sees_mirror=True,
        higher_is_better=True,
    ),
    "gdt_ts_kabsch": Score(
        function=F.gdt_ts_kabsch,
        metric=classes.GDTTSKabsch,
        takes="pair",
        truth=1.0,
        sees_mirror=True,
        higher_is_better=True,
    ),
    "gdt_ha_kabsch": Score(
        function=F.gdt_ha_kabsch,
        metric=classes.GDTHAKabsch,
        takes="pair",
        truth=1.0,
        sees_mirror=True,
        higher_is_better=True,
    ),
    "lddt_ca": Score(
        function=F.lddt_ca,
        metric=classes.LDDTCa,
        takes="pair",
        truth=1.0,
        sees_mirror=False,
        higher_is_better=True,
    ),
    "rg_ratio": Score(
        function=F.rg_ratio,
        metric=classes.RgRatio,
        takes="pair",
        truth=1.0,
        sees_mirror=False,
        higher_is_better=None,
    ),
    "secondary_structure_agreement": Score(
        function=F.secondary_structure_agreement,
        metric=classes.SecondaryStructureAgreement,
        takes="pair",
        truth=1.0,
        sees_mirror=None,
        higher_is_better=True,
    ),
    "ca_bond_share": Score(
        function=F.ca_bond_share,
        metric=classes.CaBondShare,
        takes="bonded trace",
        truth=None,
        sees_mirror=False,
        higher_is_better=True,
    ),
    "clash_count": Score(
        function=F.clash_count,
        metric=classes.ClashCount,
        takes="trace",
        truth=None,
        sees_mirror=False,
        higher_is_better=False,
    ),
    "helix_content": Score(
        function=F.helix_content,
        metric=classes.HelixContent,
        takes="trace",
        truth=None,
        sees_mirror=None,
        higher_is_better=None,
    ),
    "strand_content": Score(
        function=F.strand_content,
        metric=classes.StrandContent,
        takes="trace",
        truth=None,
        sees_mirror=None,
        higher_is_better=None,
    ),
    "backbone_helix_content": Score(
        function=F.backbone_helix_content,
        metric=classes.BackboneHelixContent,
        takes="backbone",
        truth=None,
        sees_mirror=False,
        higher_is_better=None,
    ),
    "backbone_strand_content": Score(
        function=F.backbone_strand_content,
        metric=classes.BackboneStrandContent,
        takes="backbone",
        truth=None,
        sees_mirror=False,
        higher_is_better=None,
    ),
    "diversity": Score(
        function=F.diversity,
        metric=classes.Diversity,
        takes="samples",
        truth=0.0,
        sees_mirror=True,
        higher_is_better=None,
    ),
    "contact_precision": Score(
        function=F.contact_precision,
        metric=classes.ContactPrecision,
        takes="contacts",
        truth=None,
        sees_mirror=False,
        higher_is_better=True,
    ),
    "contact_recall": Score(
        function=F.contact_recall,
        metric=classes.ContactRecall,
        takes="contacts",
        truth=1.0,
        sees_mirror=False,
        higher_is_better=True,
    ),
}
"""Every score that the project gives; a test holds each to what is said of it here."""
