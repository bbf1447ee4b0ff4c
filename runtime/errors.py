"""Errors that say what happened, what was expected and what to type."""


class CirRtError(Exception):
    """Anything that cir-rt refuses or fails to do; the command line exits with 1."""


class UsageError(CirRtError):
    """The call itself is wrong; the command line exits with 2."""


class ConfigError(CirRtError):
    """A configuration holds an unknown key or an impossible value."""


class PictureError(CirRtError):
    """A picture cannot be read, or is of a kind that is refused by name."""


class TextError(CirRtError):
    """A text is empty or longer than the model reads."""


class UnknownId(CirRtError):
    """An id that the gallery does not hold."""


class BundleError(CirRtError):
    """A bundle is incomplete, altered, or of another format version."""


class EngineMismatch(CirRtError):
    """An engine was built for another device, instruction set or backend version."""


class BackendMissing(CirRtError):
    """A package or device that was asked for is not on this machine."""


class DeviceError(CirRtError):
    """A GPU that is there failed, or has no memory left."""


class GalleryError(CirRtError):
    """A gallery is missing, damaged or held by another writer."""


class GalleryBusy(GalleryError):
    """A gallery that is to be changed is held by another writer."""


class GalleryMismatch(GalleryError):
    """A gallery was made by another model than the bundle at hand."""


class StorageFull(GalleryError):
    """The disk is full; what was stored before is untouched."""


class CheckpointError(CirRtError):
    """A checkpoint or graphs folder is incomplete or of an unknown kind."""


class CompileError(CirRtError):
    """A graph cannot be compiled for its target; the compiler's own words are in the message."""


class DataError(CirRtError):
    """A dataset folder is not recognised, or pictures that it names are missing."""


class GateError(CirRtError):
    """A built engine falls short of its limit in recall, agreement or latency."""
