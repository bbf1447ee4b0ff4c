"""From a checkpoint to ONNX graphs over the checkpoint's own weight file.

The graphs folder is the checkpoint's (config.json, model.safetensors, tokenizer.json, calibration/)
plus {role}.onnx, and reranker/ where a re-ranker goes with it: a graphs folder of its own. The
graphs hold no weights: their initializers point into model.safetensors, and where that is in half
precision a Cast follows.
"""

from cir_rt.export.onnx_export.folder import export_graphs
from cir_rt.export.onnx_export.parity import TOLERANCE, Parity

__all__ = ["TOLERANCE", "Parity", "export_graphs"]
