"""A bundle's engines at work: pictures and words to vectors, and both to queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cir_rt.bundle import Bundle
from cir_rt.compose import Composer, open_composer
from cir_rt.engines import Engine, open_engine
from cir_rt.errors import BundleError, EngineMismatch
from cir_rt.pictures import PictureSource
from cir_rt.preprocess import Preprocess
from cir_rt.text import Tokenizer


class Encoder:
    """Image engine, text engine and composition of one bundle, owned by one thread."""

    def __init__(
        self,
        *,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        image: Engine,
        text: Engine,
        compose: Composer,
        batch: int = 32,
    ) -> None:
        """Take the parts; `open` makes them from a bundle."""
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.image = image
        self.text = text
        self.compose = compose
        self.batch = batch
        self.dim = compose.dim
        self.words = int(text.outputs[0].shape[1])  # numbers that are composed of a caption
        self.device = image.device

    @classmethod
    def open(cls, bundle: Bundle, *, device: str = "cpu", threads: int | None = None) -> Encoder:
        """Load a bundle's engines.

        Raises EngineMismatch for one built for another kind of device (any GPU number will do),
        and what `open_engine` raises.
        """
        built = bundle.manifest.target.device
        if _kind(built) != _kind(device):
            raise EngineMismatch(
                f"{bundle.folder}: built for {built}, asked to run on {device}. Open it "
                f"with device='{built}', or:  cir-rt build-engine MODEL --device {device}"
            )
        image, text = bundle.role("image"), bundle.role("text")
        if image.preprocess is None or text.text is None:
            raise BundleError(f"{bundle.folder}: the manifest lacks preprocess or text settings.")
        return cls(
            preprocess=image.preprocess,
            tokenizer=Tokenizer(
                bundle.path(text.text.tokenizer),
                context=text.text.context,
                pad_id=text.text.pad_id,
            ),
            image=open_engine(bundle, "image", device=device, threads=threads),
            text=open_engine(bundle, "text", device=device, threads=threads),
            compose=open_composer(bundle, device=device, threads=threads),
        )

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Return unit vectors (n, dim) of preprocessed pictures (n, 3, size, size) float32."""
        return self._batched(self.image, pixels)

    def encode_ids(self, ids: np.ndarray) -> np.ndarray:
        """Return what is composed of token ids (n, length) int64: (n, `words`) float32.

        Where composition is weighted they are unit vectors as wide as a picture's.
        """
        return self._batched(self.text, ids)

    def encode_pictures(self, sources: Sequence[PictureSource]) -> np.ndarray:
        """Return unit vectors (n, dim) float32. Raises PictureError."""
        parts = [
            self.encode_pixels(self.preprocess(sources[k : k + self.batch]))
            for k in range(0, len(sources), self.batch)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return what is composed of texts, as `encode_ids`; over-long ones are cut."""
        if not texts:
            return np.zeros((0, self.words), np.float32)
        return self.encode_ids(self.tokenizer(texts, truncate=True))

    def close(self) -> None:
        """Release the engines."""
        self.image.close()
        self.text.close()
        self.compose.close()

    def _batched(self, engine: Engine, rows: np.ndarray) -> np.ndarray:
        name, output = engine.inputs[0].name, engine.outputs[0].name
        parts = [
            engine.run({name: rows[k : k + self.batch]})[output]
            for k in range(0, len(rows), self.batch)
        ]
        width = engine.outputs[0].shape[1]
        return np.concatenate(parts) if parts else np.zeros((0, width), np.float32)


def _kind(device: str) -> str:
    """Return "cuda" of "cuda:1"."""
    return device.partition(":")[0]
