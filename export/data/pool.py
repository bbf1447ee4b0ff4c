"""The training pictures among which self-training may look for pairs."""

from __future__ import annotations

from cir_rt.export.data.dataset import Dataset


def mining_pool(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Return group -> pictures of the training split's lists that no other split ranks or shows.

    FashionIQ's lists overlap between categories: of its training pictures 811 stand in another
    category's val list and 803 in another's test list. Raises DataError without a split `train`.
    """
    train = dataset.split("train")
    others = [name for name in dataset.splits if name != train.name]
    seen = {picture for name in others for picture in dataset.split(name).pictures}
    return {
        group: tuple(i for i in dict.fromkeys([*ids, *train.spare.get(group, ())]) if i not in seen)
        for group, ids in train.galleries.items()
    }
