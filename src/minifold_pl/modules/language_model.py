"""A protein language model in the encoder's place: ESM-2, read from a folder; a small network on top learns."""

from __future__ import annotations

import json
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minifold_pl.constants import AMINO_ACIDS, CLS, EOS, FIRST_RESIDUE, MASK, PAD, UNK, VOCABULARY_SIZE
from minifold_pl.data.store import ChainStore
from minifold_pl.data.store_format import EMBEDDINGS
from minifold_pl.modules.embedding_cache import Embedding, EmbeddingCache, Tokens, key_of
from minifold_pl.nn.embeddings import LinearRelativePosition
from minifold_pl.nn.encoder import AttentionPool, ContactBlock, StructureEncoder, residue_mask
from minifold_pl.nn.masking import keep, pair_mask
from minifold_pl.types import SequenceFeatures

_LETTERS: Final = {PAD: "<pad>", MASK: "<mask>", CLS: "<cls>", EOS: "<eos>", UNK: "X"} | dict(
    enumerate(AMINO_ACIDS, start=FIRST_RESIDUE)
)
"""Our tokens as ESM-2 spells them."""
_UNKNOWN: Final = 0
"""Fingerprint of a model that has not been read."""
IN_STORE: Final = "store"
"""In place of a folder for embeddings: that of the store that the chains come from."""


class LanguageModel:
    """ESM-2 as it lies in a folder, read when it is first needed; copies share its weights.

    Args:
        folder: Of ``config.json``, ``vocab.txt`` and weights, as ``save_pretrained`` writes it.

    Raises:
        ValueError: the folder holds something else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ids = _vocabulary(folder)
        self.width = int(_read_config(folder)["hidden_size"])
        """Channels of an embedding."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @cached_property
    def _model(self) -> Any:
        return _read_model(self.folder)

    @cached_property
    def fingerprint(self) -> int:
        """63 bits of its weights' names, shapes and values."""
        return _fingerprint(self._model)

    @torch.no_grad()
    def embed(self, sequence: Tokens, device: torch.device) -> Embedding:
        """The last hidden state of each residue: computed in float32, rounded to float16."""
        ids = torch.tensor([[self._ids[int(token)] for token in sequence]], device=device)
        with torch.autocast(device.type, enabled=False):
            hidden = self._model.to(device)(input_ids=ids).last_hidden_state
        found: Embedding = hidden[0, 1:-1].half().cpu().numpy()
        return found


def store_cache(store: Path, model: LanguageModel, fingerprint: int) -> EmbeddingCache:
    """Where a store keeps the embeddings of a language model."""
    return EmbeddingCache(store / EMBEDDINGS / f"{fingerprint:016x}", model.width)


def with_ends(residues: Tokens) -> Tokens:
    """A chain's residues between CLS and EOS, as the encoder is given them."""
    return np.concatenate([[CLS], residues, [EOS]]).astype(np.uint8)


class LanguageModelEncoder(StructureEncoder):
    """Single features from ESM-2 (Lin et al. 2023, Science 379:1123), pair features from their outer products.

    The language model is read from ``folder`` when it is first needed, stays as it is, and is no part of a checkpoint:
    that keeps a fingerprint of its weights, and refuses others. Each sequence runs by itself at its own length, in
    float32, and its embedding is rounded to float16, so that neither its batch nor the cache changes a bit. Needs the
    extra ``plm``.

    Embeddings are kept in the store that the chains come from, in ``embeddings/``: 2 bytes a residue and channel, of
    whole chains only, so that crops do not fill the disk. ``minifold-pl data embed`` makes them before a training. A
    store that cannot be written is read all the same.

    .. code-block:: yaml

        encoder:
          class_path: minifold_pl.modules.language_model.LanguageModelEncoder
          init_args: {folder: /models/esm2_t30_150M_UR50D}

    Args:
        folder: Of ``config.json``, ``vocab.txt`` and weights, as ``save_pretrained`` writes it.
        cache: Where embeddings are kept: ``store``; another folder, for every sequence, crops among them; null for
            nowhere. Sequences with MASK are not kept.
        d: channels of the single and pooled features.
        d_pair: channels of the pair features.
        outer_hidden: channels of each projection of the outer product.
        pair_heads: heads of the axial attention.
        max_rel: largest sequence separation told apart in the pair features.
    """

    def __init__(
        self,
        folder: str,
        cache: str | None = IN_STORE,
        d: int = 128,
        d_pair: int = 64,
        outer_hidden: int = 32,
        pair_heads: int = 4,
        max_rel: int = 32,
    ) -> None:
        super().__init__()
        self.d_single, self.d_pair, self.d_pooled = d, d_pair, d
        # Not a submodule: neither checkpoints nor optimizer nor averages are to hold it.
        self.language_model = LanguageModel(Path(folder).expanduser())
        self.width = self.language_model.width
        """Channels of the language model."""
        self._in_store = cache == IN_STORE
        self._folder = None if cache is None or self._in_store else Path(cache).expanduser()
        self._store: Path | None = None
        self._whole: frozenset[str] = frozenset()
        """Names of the sequences that the store's folder takes."""
        self._opened: EmbeddingCache | None = None
        self.single = nn.Sequential(
            nn.LayerNorm(self.width), nn.Linear(self.width, d), nn.ReLU(), nn.Linear(d, d)
        )
        self.norm_single = nn.LayerNorm(d)
        self.relative_position = LinearRelativePosition(d_pair, max_rel)
        self.contact_block = ContactBlock(d, d_pair, outer_hidden, pair_heads)
        self.norm_pair = nn.LayerNorm(d_pair)
        self.pool = AttentionPool(d)
        self.contacts = nn.Linear(d_pair, 1)
        self.register_buffer("fingerprint", torch.tensor(_UNKNOWN, dtype=torch.int64))
        self.fingerprint: Tensor

    def use_store(self, path: Path) -> None:
        """See :meth:`StructureEncoder.use_store`."""
        if self._in_store and path != self._store:
            store = ChainStore.open(path)
            self._whole = frozenset(key_of(with_ends(store.tokens(chain))) for chain in range(len(store)))
            self._store, self._opened = path, None

    def encode(self, tokens: Int[Tensor, "b n"]) -> SequenceFeatures:
        """Features of the ``n - 2`` residue places, 0 where there is no residue."""
        residues = residue_mask(tokens)
        places = torch.arange(residues.shape[1], device=tokens.device)
        single = keep(self.norm_single(self.single(self.embeddings(tokens))), residues)
        pair = self.relative_position(places[None]).expand(len(tokens), -1, -1, -1)
        pair = self.contact_block(single, pair, residues)
        return SequenceFeatures(
            single=single,
            pair=keep(self.norm_pair(pair), pair_mask(residues)),
            pooled=self.pool(single, residues),
        )

    def contact_logits(self, features: SequenceFeatures) -> Float[Tensor, "b l l"]:
        """Logit of the event that two residues are in contact; symmetric."""
        return self.contacts(features.pair + features.pair.transpose(1, 2)).squeeze(-1)

    @torch.no_grad()
    def embeddings(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b l w"]:
        """What the language model makes of each sequence, 0 beyond its end."""
        out = torch.zeros(len(tokens), tokens.shape[1] - 2, self.width)
        if tokens.is_meta:
            return out.to(tokens.device)  # shapes are all there is
        for row, found in zip(tokens.cpu().numpy(), out, strict=True):
            sequence = row[: int((row != PAD).sum())].astype(np.uint8)
            found[: len(sequence) - 2] = torch.from_numpy(self._embedding(sequence, tokens.device)).float()
        return out.to(tokens.device)

    def _embedding(self, sequence: Tokens, device: torch.device) -> Embedding:
        cache = None if bool((sequence == MASK).any()) else self._cache(sequence)
        if cache is not None and (kept := cache.read(sequence)) is not None:
            return kept
        self._known_fingerprint(read=True)
        found = self.language_model.embed(sequence, device)
        if cache is not None:
            cache.keep(sequence, found)
        return found

    def _cache(self, sequence: Tokens) -> EmbeddingCache | None:
        if self._store is not None and key_of(sequence) not in self._whole:
            return None
        if self._opened is None and self._store is not None:
            self._opened = store_cache(self._store, self.language_model, self._known_fingerprint())
        if self._opened is None and self._folder is not None:
            self._opened = EmbeddingCache(self._folder / f"{self._known_fingerprint():x}", self.width)
        return self._opened

    def _known_fingerprint(self, read: bool = False) -> int:
        """The one that it was trained with; that of the model in the folder where it was trained with none.

        Raises:
            ValueError: ``read``, and the model in the folder is another one.
        """
        known = int(self.fingerprint)
        if known != _UNKNOWN and not read:
            return known
        found = self.language_model.fingerprint
        if known not in (_UNKNOWN, found):
            raise ValueError(
                f"the language model in {self.language_model.folder} has other weights than the one that this encoder "
                "was trained on: give model.init_args.encoder.init_args.folder that one's"
            )
        self.fingerprint.fill_(found)
        return found


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no language model: there is no config.json; give the folder that "
            "ESM-2 was saved to (config.json, vocab.txt, model.safetensors)"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "esm":
        raise ValueError(f"{path} is of a model of type {kind!r}; give an ESM-2 model")
    if not isinstance(config.get("hidden_size"), int):
        raise ValueError(f"{path} tells no hidden_size: it is no whole configuration of ESM-2")
    found: dict[str, Any] = config
    return found


def _vocabulary(folder: Path) -> list[int]:
    """The language model's number of each of our tokens."""
    _read_config(folder)
    path = folder / "vocab.txt"
    if not path.is_file():
        raise ValueError(f"{folder} holds no vocab.txt; give the folder that ESM-2 was saved to")
    numbers = {word: k for k, word in enumerate(path.read_text(encoding="utf-8").split())}
    missing = sorted(set(_LETTERS.values()) - numbers.keys())
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it is not ESM-2's vocabulary")
    return [numbers[_LETTERS[token]] for token in range(VOCABULARY_SIZE)]


def _read_model(folder: Path) -> Any:
    try:
        from transformers import EsmModel
    except ImportError as error:
        raise ValueError(
            "an encoder that is a language model needs transformers: pip install 'minifold-pl[plm]'"
        ) from error
    model = EsmModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False)
    return model.float().eval().requires_grad_(False)


def _fingerprint(model: nn.Module) -> int:
    """63 bits of the weights' names, shapes and values."""
    digest = blake2b(digest_size=8)
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return int.from_bytes(digest.digest(), "little") >> 1 or 1
