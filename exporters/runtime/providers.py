"""ONNX Runtime sessions whose execution provider is proven, not asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from exporters.runtime.import_ort import load_onnxruntime
from exporters.runtime.networks import input_names
from structprune.errors import DeviceUnavailableError, InputError, UsageError

PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Device name -> the ONNX Runtime provider that runs there."""

FLOATING: Mapping[str, torch.dtype] = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
}
"""ONNX Runtime's names of the precisions that numpy has too."""

FATAL = 4
"""ONNX Runtime's highest log severity: a missing CUDA library is an error of ours, not a line on stderr."""

Timed = Callable[[], float]
"""One forward pass; returns the seconds that it took."""

Session = Any
"""An ``onnxruntime.InferenceSession``, which has no types."""


def device_kind(device: str) -> str:
    """Return ``"cpu"`` or ``"cuda"`` for a device name such as ``"cuda:1"``.

    Raises:
        UsageError: it is neither.
    """
    kind = device.partition(":")[0]
    if kind not in PROVIDERS:
        raise UsageError(f"device {device!r} can't be measured; expected one of: {', '.join(PROVIDERS)}")
    return kind


def check_device(device: str) -> None:
    """Make sure that PyTorch sees the device.

    Raises:
        UsageError: no device of that kind is known.
        DeviceUnavailableError: it is not there.
    """
    if device_kind(device) != "cuda":
        return
    index = torch.device(device).index or 0
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        raise DeviceUnavailableError(
            f"device {device!r} was asked for, but PyTorch sees no such CUDA device; use 'cpu'"
        )


def open_session(
    path: Path, *, device: str = "cpu", threads: int = 1, profile: Path | None = None
) -> Session:
    """Open an ONNX file on a device, and make sure that it runs there.

    Without CUDA, ONNX Runtime still lists its CUDA provider, accepts it and runs on the CPU; only the
    session's own list tells what runs.

    Args:
        path: the ONNX file.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        threads: CPU threads inside an operator.
        profile: where the profile of its runs goes, as the beginning of a file's name; None takes none.

    Raises:
        UsageError: no device of that kind is known.
        InputError: the file is not there or is no ONNX model.
        DeviceUnavailableError: the session runs on another provider than the one asked for.
    """
    wanted = PROVIDERS[device_kind(device)]
    if not path.is_file():
        raise InputError(f"there is no ONNX file {path.name!r} at the path given; export the network first")
    session = _session(path, wanted, device, threads, profile)
    running = running_provider(session)
    if running != wanted:
        raise DeviceUnavailableError(
            f"ONNX Runtime was asked for {wanted} but runs on {running}; "
            f"install a CUDA driver and onnxruntime-gpu[cuda,cudnn], or use device 'cpu'"
        )
    return session


def _session(path: Path, provider: str, device: str, threads: int, profile: Path | None) -> Session:
    ort = load_onnxruntime()

    ort.set_default_logger_severity(FATAL)
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    arguments = {}
    if provider == PROVIDERS["cuda"]:
        _preload_cuda(ort)
        arguments = {"device_id": torch.device(device).index or 0}
    try:
        return ort.InferenceSession(path, options, providers=[(provider, arguments)])
    # ONNX Runtime's exceptions share no base below Exception.
    except Exception as error:
        raise InputError(f"ONNX Runtime can't open {path.name!r}: {first_line(error)}") from error


def _preload_cuda(ort: Any) -> None:
    """Load CUDA and cuDNN from the nvidia wheels; ONNX Runtime does not look there by itself."""
    if torch.cuda.is_available() and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def running_provider(session: Session) -> str:
    """Return the provider that the session really runs on."""
    return str(session.get_providers()[0])


def feeds(session: Session, inputs: Sequence[Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Match tensors with the session's inputs.

    Files of ours are matched by name, since an exporter drops an input that the network never reads; other
    files by position. Numbers with a fraction come in the precision that the file takes.

    Raises:
        InputError: the file wants another number of inputs.
    """
    names = fed_names(session, len(inputs))
    types = {entry.name: FLOATING.get(entry.type) for entry in session.get_inputs()}
    return {
        name: np.ascontiguousarray(_typed(x.detach().cpu(), types[name]).numpy())
        for name, x in zip(names, inputs, strict=True)
        if name in types
    }


def fed_names(session: Session, count: int) -> list[str]:
    """Return under which names that many tensors enter a session; it may want fewer of them.

    Raises:
        InputError: the file wants another number of inputs.
    """
    wanted = [entry.name for entry in session.get_inputs()]
    ours = input_names(count)
    names = ours if set(wanted) <= set(ours) else wanted
    if len(names) != count:
        raise InputError(f"the ONNX file has inputs {wanted}; got {count} tensors")
    return names


def _typed(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return x.to(dtype) if dtype is not None and x.is_floating_point() else x


def run_once(session: Session, arrays: Mapping[str, npt.NDArray[Any]]) -> Sequence[npt.NDArray[Any]]:
    """Run a session; returns its outputs.

    Raises:
        InputError: the file can't run on these inputs.
    """
    try:
        outputs: Sequence[npt.NDArray[Any]] = session.run(None, dict(arrays))
    # ONNX Runtime's exceptions share no base below Exception.
    except Exception as error:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise InputError(
            f"the ONNX file can't run on inputs of shapes {shapes}: {first_line(error)}"
        ) from error
    return outputs


def onnx_runner(session: Session, inputs: Sequence[Tensor], *, copies: bool = False) -> Timed:
    """Return a timed forward pass of the session on fixed inputs.

    Inputs and outputs are bound where the session runs, as in the timing of PyTorch, so that the two compare.

    Args:
        session: an open session.
        inputs: in the order of the network's arguments.
        copies: copy the inputs from the host and the outputs back to it in every run, as a service does whose
            data come from elsewhere.

    Raises:
        InputError: the file can't run on these inputs.
    """
    arrays = feeds(session, inputs)
    run_once(session, arrays)
    if copies:
        return _timed(lambda: session.run(None, arrays))
    binding = _bound(session, arrays)
    return _timed(lambda: (session.run_with_iobinding(binding), binding.synchronize_outputs()))


def _bound(session: Session, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    ort = load_onnxruntime()

    kind = "cuda" if running_provider(session) == PROVIDERS["cuda"] else "cpu"
    index = int(session.get_provider_options()[PROVIDERS[kind]].get("device_id", 0))
    binding = session.io_binding()
    for name, array in arrays.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, kind, index))
    for output in session.get_outputs():
        binding.bind_output(output.name, kind, index)
    binding.synchronize_inputs()
    return binding


def _timed(run: Callable[[], object]) -> Timed:
    def timed() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return timed


def first_line(error: BaseException) -> str:
    """Return what an error says, cut to its first line, and its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
