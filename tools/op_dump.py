"""Writes which ops and kernels the C library of a TensorFlow wheel has registered.

    python tools/op_dump.py SITE_PACKAGES OUTPUT_FOLDER [text]

writes `ops.pb` (an OpList) and `kernels.pb` (a KernelList); with `text`, those of the TF-Text that
lies beside that TensorFlow are in them, too. `tools/op_history.py` runs it as a file, in a process
of its own: only one TensorFlow fits into a process, and this one must not be the installed one. It
imports nothing but the standard library and runs no Python code of the wheel, so that any Python
can read any wheel.
"""

import ctypes
import sys
from pathlib import Path


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("deallocator", ctypes.c_void_p),
    )


def dump(site: Path, output: Path, text: bool) -> None:
    """Writes what is registered; OSError where there is no such library."""
    folder = site / "tensorflow"
    ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), mode=ctypes.RTLD_GLOBAL)
    for name in ("TF_NewStatus", "TF_LoadLibrary"):
        getattr(library, name).restype = ctypes.c_void_p
    library.TF_Message.restype = ctypes.c_char_p
    status = ctypes.c_void_p(library.TF_NewStatus())
    if text:
        for path in sorted((site / "tensorflow_text").rglob("_*.so")):
            library.TF_LoadLibrary(str(path).encode(), status)
            if library.TF_GetCode(status) != 0:
                raise RuntimeError(f"{path}: {library.TF_Message(status).decode()}")
    for name, arguments, file in (
        ("TF_GetAllOpList", (), "ops.pb"),
        ("TF_GetAllRegisteredKernels", (status,), "kernels.pb"),
    ):
        function = getattr(library, name)
        function.restype = ctypes.POINTER(_Buffer)
        buffer = function(*arguments).contents
        (output / file).write_bytes(ctypes.string_at(buffer.data, buffer.length))


if __name__ == "__main__":
    dump(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] == ["text"])
