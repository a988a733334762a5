"""A ``torchmetrics.Metric`` for every score: its mean over chains, batches and processes.

Each takes what its function takes (:mod:`minifold_pl.metrics.functional`); see :class:`ChainMean` for what it counts.

    >>> metric = TMScore()
    >>> metric.update(pred, true, mask)  # doctest: +SKIP
    >>> metric.compute()  # doctest: +SKIP
"""

from __future__ import annotations

from functools import partial
from typing import Any

from minifold_pl.metrics import functional as F
from minifold_pl.metrics.chain_mean import ChainMean
from minifold_pl.metrics.contacts import ALL, LONG, SeparationRange


class TMScore(ChainMean):
    """Mean TM-score, maximised over superpositions; ``update(pred, true, mask, length=None)``."""

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.tm_score, **kwargs)


class TMKabsch(ChainMean):
    """Mean TM-score in the pose of least RMSD; ``update(pred, true, mask, length=None)``."""

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.tm_kabsch, **kwargs)


class RMSD(ChainMean):
    """Mean least RMSD, Å; ``update(pred, true, mask)``."""

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.rmsd, **kwargs)


class GDTTS(ChainMean):
    """Mean GDT-TS, maximised over superpositions; ``update(pred, true, mask, length=None)``."""

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.gdt_ts, **kwargs)


class GDTHA(ChainMean):
    """Mean GDT-HA, maximised over superpositions; ``update(pred, true, mask, length=None)``."""

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.gdt_ha, **kwargs)


class GDTTSKabsch(ChainMean):
    """Mean GDT-TS in the pose of least RMSD; ``update(pred, true, mask, length=None)``."""

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.gdt_ts_kabsch, **kwargs)


class GDTHAKabsch(ChainMean):
    """Mean GDT-HA in the pose of least RMSD; ``update(pred, true, mask, length=None)``."""

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.gdt_ha_kabsch, **kwargs)


class LDDTCa(ChainMean):
    """Mean lDDT over Cα; ``update(pred, true, mask)``."""

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.lddt_ca, **kwargs)


class RgRatio(ChainMean):
    """Mean radius of gyration over the true one; ``update(pred, true, mask)``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.rg_ratio, **kwargs)


class SecondaryStructureAgreement(ChainMean):
    """Mean share of residues whose helix, strand or coil is right; ``update(pred, true, mask, bonded=None)``."""

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.secondary_structure_agreement, **kwargs)


class CaBondShare(ChainMean):
    """Mean share of Cα–Cα bonds of 3.8 ± 0.1 Å; ``update(ca, mask, bonded)``."""

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.ca_bond_share, **kwargs)


class ClashCount(ChainMean):
    """Mean number of clashes in a chain; ``update(ca, mask)``."""

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.clash_count, **kwargs)


class HelixContent(ChainMean):
    """Mean share of residues in helices, from Cα; ``update(ca, mask, bonded=None)``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.helix_content, **kwargs)


class StrandContent(ChainMean):
    """Mean share of residues in strands, from Cα; ``update(ca, mask, bonded=None)``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.strand_content, **kwargs)


class BackboneHelixContent(ChainMean):
    """Mean share of residues in helices, from hydrogen bonds; ``update(backbone, mask, bonded=None)``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.backbone_helix_content, **kwargs)


class BackboneStrandContent(ChainMean):
    """Mean share of residues in strands, from hydrogen bonds; ``update(backbone, mask, bonded=None)``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.backbone_strand_content, **kwargs)


class Diversity(ChainMean):
    """Mean over chains of 1 − mean pairwise TM-score of the samples; ``update(samples, mask)``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(F.diversity, **kwargs)


class ContactPrecision(ChainMean):
    """Mean precision of the L / ``top`` most probable pairs of a separation; ``update(logits, ca, mask)``."""

    higher_is_better = True

    def __init__(self, separation: SeparationRange = LONG, top: int = 1, **kwargs: Any) -> None:
        super().__init__(partial(F.contact_precision, separation=separation, top=top), **kwargs)


class ContactRecall(ChainMean):
    """Mean share of true contacts that are predicted; ``update(logits, ca, mask)``."""

    higher_is_better = True

    def __init__(self, separation: SeparationRange = ALL, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(partial(F.contact_recall, separation=separation, threshold=threshold), **kwargs)
