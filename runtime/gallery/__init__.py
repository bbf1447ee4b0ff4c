"""The gallery on disk, and the indexes that search it."""

from cir_rt.gallery.exact import ExactIndex
from cir_rt.gallery.facts import TokenFormat
from cir_rt.gallery.item import Item
from cir_rt.gallery.store import Gallery

__all__ = ["ExactIndex", "Gallery", "Item", "TokenFormat"]
