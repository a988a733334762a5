"""Figures that need a model: dihedrals, contact maps, embeddings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from minifold_pl.cli.checkpoint_chains import chains_of, load_checkpoint
from minifold_pl.cli.errors import UserError
from minifold_pl.cli.evaluate import drawn_as
from minifold_pl.cli.evaluate_figures import class_name
from minifold_pl.cli.generation import out_of_memory_told, sampler_settings, told_to_the_user
from minifold_pl.cli.progress import progress
from minifold_pl.results.figure_data import ARCHITECTURE, CLASS, FigureData, about, is_evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from minifold_pl.data.dataset import ChainDataset
    from minifold_pl.plots.contacts import ContactPanel
    from minifold_pl.plots.style import ThemeName


def draw_ramachandran(args: argparse.Namespace) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers."""
    if is_evaluation(args.ckpt):
        return _dihedrals_of(FigureData(args.ckpt), args)
    from minifold_pl.diagnostics import dihedrals
    from minifold_pl.plots.ramachandran import (
        PHI_PSI,
        PSEUDO,
        DihedralSet,
        dihedral_numbers,
        ramachandran_figure,
    )

    kind = PHI_PSI if args.kind == "phi-psi" else PSEUDO
    module, content = load_checkpoint(args, "diffusion")
    if kind == PHI_PSI and module.needs != "backbone":
        raise UserError(
            f"{args.ckpt} predicts Cα alone, which has no φ and ψ: draw its Cα dihedrals (--kind pseudo)",
            exit_code=2,
        )
    chains = chains_of(args, module, content)
    sampler = sampler_settings(module, args)
    settings = {"seed": args.seed, "batch_size": args.batch_size}
    with progress("sampling", len(chains)) as advance, told_to_the_user(exit_code=2), out_of_memory_told():
        if kind == PHI_PSI:
            truth = dihedrals.true_phi_psi_pairs(chains)
            found = dihedrals.predicted_phi_psi_pairs(
                module, chains, sampler, t=args.t, **settings, advance=advance
            )
        else:
            truth = dihedrals.true_pseudo_pairs(chains)
            found = dihedrals.predicted_pseudo_pairs(
                module, chains, sampler, t=args.t, **settings, advance=advance
            )
    drawn = drawn_as(sampler, args.seed)
    sets = [DihedralSet(name="truth", angles=truth, told=f"{len(chains)} chains of {args.split}")]
    sets += [DihedralSet(name=f"{sampler.title} samples", angles=found[dihedrals.SAMPLES], told=drawn)]
    sets += [DihedralSet(name=f"one step from t = {args.t}", angles=found[dihedrals.ONE_STEP])]
    content["settings"] |= {**sampler.told(), "t": args.t, "kind": args.kind}
    numbers = dihedral_numbers(sets, kind)
    content["sets"] = [asdict(one) for one in numbers]
    return ramachandran_figure(sets, kind, numbers=numbers, about=about(content), theme=args.theme), content


def _dihedrals_of(data: FigureData, args: argparse.Namespace) -> tuple[Figure, dict[str, Any]]:
    from minifold_pl.plots.ramachandran import PHI_PSI, PSEUDO, ramachandran_figure

    kind = PHI_PSI if args.kind == "phi-psi" else PSEUDO
    sets, numbers = data.dihedrals(kind)
    content = {"evaluation": str(data.folder), "sets": [asdict(one) for one in numbers]}
    return ramachandran_figure(sets, kind, numbers=numbers, about=data.about, theme=args.theme), content


def draw_contacts(args: argparse.Namespace) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers."""
    draw, content = measure_contacts(args)
    return draw(args.theme), content


def measure_contacts(args: argparse.Namespace) -> tuple[Callable[[ThemeName], Figure], dict[str, Any]]:
    """What draws the figure in any theme, and its numbers; the model runs once, of an evaluation not at all."""
    from minifold_pl.plots.contacts import ContactPanel, contact_counts, contact_figure

    if is_evaluation(args.ckpt):
        data = FigureData(args.ckpt)
        kept = data.contact_panels(args.names or ())
        told = {"evaluation": str(data.folder), **_chain_numbers(kept)}
        return (lambda theme: contact_figure(kept, about=data.about, theme=theme)), told
    from minifold_pl.diagnostics.contact_maps import one_of_each_class, predicted_maps

    module, content = load_checkpoint(args, None)
    count, args.chains = args.chains, None
    if args.names:
        args.split = "all"
    chains = _with_coordinates(chains_of(args, module, content))
    places = _named(chains, args.names) if args.names else one_of_each_class(chains, count, args.seed)
    with out_of_memory_told():
        maps = predicted_maps(module, chains, places)
    content["data"]["chains"] = len(maps)
    panels = [
        ContactPanel(
            name=one.name, contact=one.contact, probability=one.probability, observed=one.observed, scores=one.scores,
            counts=contact_counts(one.contact, one.probability, one.observed), told=class_name(one.cath_class),
        )
        for one in maps
    ]  # fmt: skip
    content |= _chain_numbers(panels)
    return (lambda theme: contact_figure(panels, about=about(content), theme=theme)), content


def draw_embedding(args: argparse.Namespace) -> tuple[Figure, dict[str, Any]]:
    """The figure, and its numbers."""
    draw, content = measure_embedding(args)
    return draw(args.theme), content


def measure_embedding(args: argparse.Namespace) -> tuple[Callable[[ThemeName], Figure], dict[str, Any]]:
    """What draws the figure in any theme, and its numbers; the model runs once, of an evaluation not at all."""
    from minifold_pl.diagnostics import embeddings
    from minifold_pl.plots.embedding import Labelling, Projection, embedding_figure

    content: dict[str, Any]
    if is_evaluation(args.ckpt):
        data = FigureData(args.ckpt)
        known = data.embedding()
        vectors, labellings, explained = known.vectors, list(known.labellings), known.explained
        told, content = data.about, {"evaluation": str(data.folder)}
        components = embeddings.principal_components(vectors)
    else:
        module, content = load_checkpoint(args, None)
        chains = chains_of(args, module, content)
        with progress("embedding", len(chains)) as advance, out_of_memory_told():
            found = embeddings.pooled_embeddings(module, chains, batch_size=args.batch_size, advance=advance)
        vectors, told = found.vectors, about(content)
        labellings = [
            Labelling.of(CLASS, found.classes, vectors),
            Labelling.of(ARCHITECTURE, found.architectures, vectors),
        ]
        components = embeddings.principal_components(vectors)
        explained = components.explained
    first, second = (f"PC {k + 1} ({share:.0%} of the variance)" for k, share in enumerate(explained))
    projections = [Projection(name="PCA", points=components.points, axes=(first, second))]
    note = ""
    if embeddings.has_umap():
        points = embeddings.umap_points(vectors, args.seed)
        projections.append(Projection(name="UMAP", points=points, axes=("UMAP 1", "UMAP 2")))
    else:
        note = f"no UMAP: {embeddings.NO_UMAP}"
    content |= {
        "explained": list(explained),
        "silhouette": {one.name: one.silhouette for one in labellings},
        "umap": note or "drawn",
    }
    return (
        lambda theme: embedding_figure(projections, labellings, about=told, note=note, theme=theme)
    ), content


def _chain_numbers(panels: Sequence[ContactPanel]) -> dict[str, Any]:
    return {
        "chains": {one.name: dict(one.scores) for one in panels},
        "counts": {one.name: dict(one.counts) for one in panels},
    }


def _with_coordinates(chains: ChainDataset) -> ChainDataset:
    """A first-stage model reads chains without coordinates, too; they have no contacts."""
    kept = chains.store.has_coords[chains.indices]
    if not kept.any():
        raise UserError(
            f"no chain of split {chains.split!r} in {chains.store.path} has coordinates, and so contacts"
        )
    chains.indices = chains.indices[kept]
    return chains


def _named(chains: ChainDataset, names: list[str]) -> list[int]:
    places = {chains.store.name(int(i)): place for place, i in enumerate(chains.indices)}
    missing = [name for name in names if name not in places]
    if missing:
        raise UserError(
            f"{', '.join(missing)}: not in {chains.store.path}, without coordinates, or longer than the model reads",
            exit_code=2,
        )
    return [places[name] for name in names]
