"""The difference captioner: two pictures in, the sentence that leads from one to the other out.

LIMN+ (arXiv 2305.09979) writes captions for pairs that nobody described. No code is public: this
decoder is a reconstruction.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Pieces
from torch import Tensor, nn

from cir_rt.config import from_dict, to_dict
from cir_rt.errors import CheckpointError
from cir_rt.export.models.attention import Attention, FeedForward, Memory
from cir_rt.export.models.beams import beam_search
from cir_rt.export.models.encoded import Encoded

CONFIG, WEIGHTS = "captioner.json", "captioner.safetensors"
_UNSAID = -100  # an answer that does not count


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """The decoder's shape, and the tokenizer's marks.

    `start_id` and `end_id` are the marks that the tokenizer itself writes around a text, as CLIP's
    does. Where it writes none, the padding begins and ends a caption.
    """

    image_width: int  # of the image tower's tokens
    image_dim: int  # of its vectors
    vocabulary: int
    longest: int = 32  # pieces of a caption, marks not counted
    pad_id: int = 0
    start_id: int | None = None
    end_id: int | None = None
    width: int = 256
    heads: int = 4
    layers: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if (self.start_id is None) != (self.end_id is None):
            raise ValueError("start_id and end_id: expected both, or neither")
        if self.start_id is not None and self.pad_id in (self.start_id, self.end_id):
            raise ValueError(f"pad_id {self.pad_id} is a mark; expected another piece")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")


class DifferenceCaptioner(nn.Module):
    """A Transformer decoder over both pictures' tokens and their difference, place by place."""

    layers: Any  # of _Layer

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.norm_places = nn.LayerNorm(config.image_width, elementwise_affine=False)
        self.places = nn.ModuleList(nn.Linear(config.image_width, width) for _ in range(3))
        self.wholes = nn.ModuleList(nn.Linear(config.image_dim, width) for _ in range(3))
        self.words = nn.Embedding(config.vocabulary, width)
        self.positions = nn.Embedding(config.longest + 1, width)
        nn.init.normal_(self.words.weight, std=0.02)  # also the head's: logits start near zero
        nn.init.normal_(self.positions.weight, std=0.02)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)

    def loss(
        self, reference: Encoded, target: Encoded, ids: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Return the cross-entropy of a piece, a caption's pieces weighing `weights` (n,) each.

        `ids` (n, length) are captions as the tokenizer gives them, padded.
        """
        said, answers = self._taught(ids)
        logits = self(reference, target, said)
        each = F.cross_entropy(logits.mT, answers, ignore_index=_UNSAID, reduction="none")
        counted = (answers != _UNSAID).to(each.dtype)
        if weights is not None:
            counted = counted * weights[:, None]
        return (each * counted).sum() / counted.sum().clamp(min=1e-8)

    def forward(self, reference: Encoded, target: Encoded, said: Tensor) -> Tensor:
        """Return logits of the piece after each of `said` (n, length), the start mark first.

        (n, length, vocabulary). Raises ValueError where a caption is longer than `longest`.
        """
        length = said.shape[1]
        if length > self.config.longest + 1:
            raise ValueError(
                f"captions of {length - 1} pieces, expected at most {self.config.longest}. "
                "Cut them, or build the captioner with a higher longest."
            )
        later = torch.ones(length, length, dtype=torch.bool, device=said.device).triu(1)
        bias = torch.zeros(length, length, device=said.device).masked_fill(later, -1e4)
        memories = self._memories(reference, target)
        x = self.words(said) + self.positions.weight[:length]
        for layer, memory in zip(self.layers, memories, strict=True):
            x, _ = layer(x, memory, None, bias)
        return self._logits(x)

    @torch.inference_mode()
    def write(self, reference: Encoded, target: Encoded, *, beams: int = 3) -> Tensor:
        """Return the pieces of the likeliest captions that beam search meets.

        (n, longest) int64 without marks, padded. `captions` makes text of them.
        """
        config = self.config
        memories = self._memories(reference, target)
        pasts: list[Memory | None] = [None] * len(self.layers)
        mute = [i for i in (config.pad_id, config.start_id) if i is not None and i != self._end]
        position = 0

        def step(pieces: Tensor, parents: Tensor) -> Tensor:
            nonlocal position
            x = (self.words(pieces) + self.positions.weight[position])[:, None]
            for k, layer in enumerate(self.layers):
                past = pasts[k]
                kept = None if past is None else (past[0][parents], past[1][parents])
                x, pasts[k] = layer(x, memories[k], kept, None)
            position += 1
            logits = self._logits(x)[:, 0].float()
            logits[:, mute] = -torch.inf
            return logits.log_softmax(-1)

        ids = beam_search(
            step,
            len(reference.vectors),
            beams=beams,
            longest=config.longest,
            start=self._start,
            end=self._end,
            device=reference.vectors.device,
        )
        return ids.masked_fill(ids == self._end, config.pad_id)

    @property
    def _start(self) -> int:
        return self.config.pad_id if self.config.start_id is None else self.config.start_id

    @property
    def _end(self) -> int:
        return self.config.pad_id if self.config.end_id is None else self.config.end_id

    def _taught(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return what has been said and the answer to it, (n, length) each."""
        pad = self.config.pad_id
        if self.config.start_id is not None:  # the marks are there
            said, answers = ids[:, :-1], ids[:, 1:]
            return said, answers.masked_fill(answers == pad, _UNSAID)
        mark = torch.full_like(ids[:, :1], pad)
        said, answers = torch.cat([mark, ids], 1), torch.cat([ids, mark], 1)
        over = said == pad
        over[:, 0] = False  # the first is the start mark
        return said, answers.masked_fill(over, _UNSAID)

    def _memories(self, reference: Encoded, target: Encoded) -> list[Memory]:
        """Return what each layer reads: 3 (places + 1) rows.

        Tokens are normalised before the difference is taken, and not after: how small it is says
        that nothing changed there.
        """
        places = [self.norm_places(e.tokens.float()) for e in (reference, target)]
        wholes = [e.vectors.float() * self.config.image_dim**0.5 for e in (reference, target)]
        if places[0].shape != places[1].shape:
            raise ValueError(
                f"tokens of shape {tuple(places[0].shape)} and {tuple(places[1].shape)}: "
                "expected both pictures from one tower at one size"
            )
        rows = [
            linear(x)
            for linear, x in zip(self.places, [*places, places[1] - places[0]], strict=True)
        ]
        rows += [
            linear(x)[:, None]
            for linear, x in zip(self.wholes, [*wholes, wholes[1] - wholes[0]], strict=True)
        ]
        memory = torch.cat(rows, dim=1)
        return [layer.cross.remember(memory) for layer in self.layers]

    def _logits(self, x: Tensor) -> Tensor:
        return self.norm(x) @ self.words.weight.T


class _Layer(nn.Module):
    """Pre-norm: what was said, then the pictures, then each row by itself."""

    def __init__(self, config: CaptionerConfig) -> None:
        super().__init__()
        self.norm_own = nn.LayerNorm(config.width)
        self.own = Attention(config.width, config.heads)
        self.norm_cross = nn.LayerNorm(config.width)
        self.cross = Attention(config.width, config.heads)
        self.norm_mlp = nn.LayerNorm(config.width)
        self.mlp = FeedForward(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, memory: Memory, past: Memory | None, bias: Tensor | None
    ) -> tuple[Tensor, Memory]:
        """Return the rows, and the past with them; a pair's beams read one memory together."""
        said = self.norm_own(x)
        keys, values = self.own.remember(said)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        x = x + self.dropout(self.own(said, (keys, values), bias))
        asking = self.norm_cross(x).reshape(len(memory[0]), -1, x.shape[2])
        x = x + self.dropout(self.cross(asking, memory).reshape(x.shape))
        return x + self.dropout(self.mlp(self.norm_mlp(x))), (keys, values)


def captions(ids: Tensor, pieces: Pieces) -> list[str]:
    """Return texts of (n, length) pieces; marks and padding are the tokenizer's special ones."""
    return [text.strip() for text in pieces.decode_batch(ids.tolist(), skip_special_tokens=True)]


def save_captioner(captioner: DifferenceCaptioner, folder: Path) -> None:
    """Write captioner.json and captioner.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.cpu().contiguous() for k, v in captioner.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    text = json.dumps(to_dict(captioner.config), indent=2) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def load_captioner(folder: Path) -> DifferenceCaptioner:
    """Read a captioner in evaluation mode. Raises CheckpointError where the folder holds none."""
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        captioner = DifferenceCaptioner(from_dict(CaptionerConfig, values, CONFIG))
        captioner.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: not a readable captioner ({error}).") from error
    return captioner.eval()
