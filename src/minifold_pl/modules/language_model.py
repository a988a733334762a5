"""A protein language model in the encoder's place: ESM-2, read from a folder; a small network on top learns."""

from __future__ import annotations

import json
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minifold_pl.checkpoint.atomic import atomic_write
from minifold_pl.constants import AMINO_ACIDS, CLS, EOS, FIRST_RESIDUE, MASK, PAD, UNK, VOCABULARY_SIZE
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


class LanguageModelEncoder(StructureEncoder):
    """Single features from ESM-2 (Lin et al. 2023, Science 379:1123), pair features from their outer products.

    The language model is read from ``folder`` when it is first needed, stays as it is, and is no part of a checkpoint:
    that keeps a fingerprint of its weights, and refuses others. Each sequence runs by itself at its own length, in
    float32, and its embedding is rounded to float16, so that neither its batch nor the cache changes a bit. Needs the
    extra ``plm``.

    .. code-block:: yaml

        encoder:
          class_path: minifold_pl.modules.language_model.LanguageModelEncoder
          init_args: {folder: /models/esm2_t30_150M_UR50D, cache: /scratch/esm2_150M}

    Args:
        folder: Of ``config.json``, ``vocab.txt`` and weights, as ``save_pretrained`` writes it.
        cache: Folder for embeddings, one file a sequence; null for none. Sequences with MASK are not kept, and crops
            are sequences of their own.
        d: channels of the single and pooled features.
        d_pair: channels of the pair features.
        outer_hidden: channels of each projection of the outer product.
        pair_heads: heads of the axial attention.
        max_rel: largest sequence separation told apart in the pair features.
    """

    def __init__(
        self,
        folder: str,
        cache: str | None = None,
        d: int = 128,
        d_pair: int = 64,
        outer_hidden: int = 32,
        pair_heads: int = 4,
        max_rel: int = 32,
    ) -> None:
        super().__init__()
        self.d_single, self.d_pair, self.d_pooled = d, d_pair, d
        self.folder = Path(folder).expanduser()
        self.cache = None if cache is None else Path(cache).expanduser()
        self._ids = _vocabulary(self.folder)
        self.width = int(_read_config(self.folder)["hidden_size"])
        """Channels of the language model."""
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
        # Not a submodule: neither checkpoints nor optimizer nor averages are to hold it.
        self.__dict__["_model"] = None

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
            sequence = row[: int((row != PAD).sum())]
            found[: len(sequence) - 2] = torch.from_numpy(self._embedding(sequence, tokens.device)).float()
        return out.to(tokens.device)

    def _embedding(self, sequence: np.ndarray, device: torch.device) -> np.ndarray:
        path = None
        if self.cache is not None and not (sequence == MASK).any():
            key = blake2b(sequence.astype(np.uint8).tobytes(), digest_size=16).hexdigest()
            path = self.cache / f"{self._known_fingerprint(device):x}" / key[:2] / f"{key}.npy"
            if path.is_file():
                return np.load(path)
        ids = torch.tensor([[self._ids[int(token)] for token in sequence]], device=device)
        with torch.autocast(device.type, enabled=False):
            hidden = self._language_model(device)(input_ids=ids).last_hidden_state
        found = hidden[0, 1:-1].half().cpu().numpy()
        if path is not None:
            atomic_write(path, partial(np.save, arr=found))
        return found

    def _known_fingerprint(self, device: torch.device) -> int:
        if int(self.fingerprint) == _UNKNOWN:
            self._language_model(device)
        return int(self.fingerprint)

    def _language_model(self, device: torch.device) -> Any:
        model = self.__dict__["_model"]
        if model is None:
            model = _read_model(self.folder)
            found = _fingerprint(model)
            if int(self.fingerprint) not in (_UNKNOWN, found):
                raise ValueError(
                    f"the language model in {self.folder} has other weights than the one that this encoder was "
                    "trained on: give model.init_args.encoder.init_args.folder that one's"
                )
            self.fingerprint.fill_(found)
            self.__dict__["_model"] = model
        return model.to(device)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no language model: there is no config.json; give the folder that "
            "ESM-2 was saved to (config.json, vocab.txt, model.safetensors)"
        )
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if config.get("model_type") != "esm":
        raise ValueError(f"{path} is of a model of type {config.get('model_type')!r}; give an ESM-2 model")
    return config


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
