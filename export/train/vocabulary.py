"""Word pieces learnt from a dataset's own captions and labels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

ENC = "[ENC]"


def learn(texts: Iterable[str], size: int, path: Path) -> int:
    """Train lower-cased byte-level BPE of at most `size` pieces; return the size reached.

    Bytes are the alphabet, so that no text is unknown; piece 0 is the padding.
    """
    pieces = Tokenizer(models.BPE())
    pieces.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=3,
        special_tokens=["[PAD]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(texts, trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    pieces.save(str(path))
    return pieces.get_vocab_size()


def mark(path: Path) -> int:
    """Let every text begin with the piece [ENC], and return its id.

    A grounded text encoder reads its summary there: what stands first is no word of the text.
    """
    pieces = Tokenizer.from_file(str(path))
    known = pieces.token_to_id(ENC)
    if known is not None:
        return known
    pieces.add_special_tokens([ENC])
    number = pieces.get_vocab()[ENC]
    pieces.post_processor = processors.TemplateProcessing(
        single=f"{ENC} $A", special_tokens=[(ENC, number)]
    )
    pieces.save(str(path))
    return number
