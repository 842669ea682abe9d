from __future__ import annotations

import builtins
import copy
import functools
import os
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from structprune.errors import InputError, UnsafeCheckpointError
from structprune.models.definitions import cifar_resnet20
from structprune.models.unpickle import KeptPartial, globals_of, load, module_classes


class Runs:
    """A pickle of this calls ``function(*arguments)`` when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def _zipped(content: object, path: Path) -> None:
    torch.save(content, path)


def _legacy(content: object, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old forms warn that they can't find a class's source
        torch.save(content, path, _use_new_zipfile_serialization=False)


def _raw(protocol: int) -> Callable[[object, Path], None]:
    def write(content: object, path: Path) -> None:
        path.write_bytes(pickle.dumps(content, protocol=protocol))

    return write


FORMS = {"zip": _zipped, "legacy": _legacy} | {f"protocol {p}": _raw(p) for p in range(6)}


@pytest.mark.parametrize("form", FORMS)
def test_a_pickle_that_would_run_a_command_is_named_and_not_run(form: str, tmp_path: Path) -> None:
    file, trace = tmp_path / "model.pt", tmp_path / "it_ran"
    FORMS[form]({"state_dict": Runs(os.system, f"touch {trace}")}, file)
    with pytest.raises(UnsafeCheckpointError, match=r"posix\.system|nt\.system") as caught:
        load(file)
    assert "trust_pickle=" in str(caught.value)
    assert caught.value.exit_code == 5
    assert not trace.exists()


def test_trust_pickle_runs_it(tmp_path: Path) -> None:
    file, trace = tmp_path / "model.pt", tmp_path / "it_ran"
    _zipped(Runs(os.system, f"touch {trace}"), file)
    assert load(file, trust_pickle=True) == 0
    assert trace.exists()


@pytest.mark.parametrize("trick", [builtins.eval, builtins.getattr, builtins.__import__, torch.hub.load])
def test_functions_are_refused(trick: Callable[..., Any], tmp_path: Path) -> None:
    _zipped(Runs(trick, "1 + 1"), tmp_path / "model.pt")
    with pytest.raises(UnsafeCheckpointError, match=trick.__name__):
        load(tmp_path / "model.pt")


def test_a_function_hidden_in_a_partial_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.__dict__["extra"] = functools.partial(os.system, "true")
    _zipped(model, tmp_path / "model.pt")
    with pytest.raises(UnsafeCheckpointError, match="system"):
        load(tmp_path / "model.pt")


def test_a_partial_is_kept_but_can_not_be_called(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.__dict__["extra"] = functools.partial(nn.LayerNorm, eps=1e-6)
    _zipped(model, tmp_path / "model.pt")
    read = load(tmp_path / "model.pt")
    assert read.extra == KeptPartial(nn.LayerNorm, (), {"eps": 1e-6})
    assert not callable(read.extra)


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16"])
def test_pickled_torchvision_networks_compute_the_same(name: str, tmp_path: Path) -> None:
    options = {"image_size": 32, "num_classes": 5} if name == "vit_b_16" else {"num_classes": 5}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    if name == "vit_b_16":
        nn.init.normal_(model.heads.head.weight)  # zeros would hide every difference
    _zipped(model, tmp_path / "model.pt")
    read = load(tmp_path / "model.pt")
    x = torch.randn(2, 3, 32, 32)
    assert type(read) is type(model)
    with torch.no_grad():
        assert torch.equal(read(x), model(x))
        assert torch.equal(copy.deepcopy(read)(x), model(x))
    assert read(x).std() > 0


def test_networks_of_our_own_are_allowed(tmp_path: Path) -> None:
    _zipped(cifar_resnet20().eval(), tmp_path / "model.pt")
    assert load(tmp_path / "model.pt")(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def test_shared_weights_stay_shared(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    _zipped(model, tmp_path / "model.pt")
    read = load(tmp_path / "model.pt")
    assert read[0].weight is read[1].weight


class _NotKnown(nn.Linear):
    pass


def test_a_class_of_the_users_own_is_refused_by_name(tmp_path: Path) -> None:
    _zipped(nn.Sequential(_NotKnown(2, 2)), tmp_path / "model.pt")
    with pytest.raises(UnsafeCheckpointError, match="_NotKnown"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("forward", nn.Identity),
        ("__call__", 1),
        ("_forward_hooks", {0: nn.Identity}),
        ("_compiled_call_impl", nn.Identity),
    ],
)
def test_attributes_that_hide_methods_are_refused(
    attribute: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # nn.Module leaves some attributes out of a pickle; a forger would not.
    monkeypatch.setattr(nn.Module, "__getstate__", lambda module: module.__dict__, raising=False)
    forged = nn.Sequential(nn.Linear(2, 2))
    forged.__dict__[attribute] = value
    _zipped(forged, tmp_path / "model.pt")
    with pytest.raises(UnsafeCheckpointError, match=attribute):
        load(tmp_path / "model.pt")


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_parallel_network_gives_the_one_in_it(one_process: None, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for wrap in (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel):
        _zipped({"model": wrap(model)}, tmp_path / "model.pt")
        read = load(tmp_path / "model.pt")["model"]
        assert type(read) is nn.Sequential
        assert all(torch.equal(read.state_dict()[k], v) for k, v in model.state_dict().items())


def test_what_lies_beside_a_network_is_not_made_by_itself(tmp_path: Path) -> None:
    from torch.distributed.algorithms.join import _JoinConfig

    _zipped({"model": _JoinConfig(True, True, True)}, tmp_path / "model.pt")
    with pytest.raises(UnsafeCheckpointError, match="_JoinConfig"):
        load(tmp_path / "model.pt")


def test_a_wrapper_with_hooks_or_without_a_network_is_refused(tmp_path: Path) -> None:
    hollow = nn.DataParallel(nn.Linear(2, 2))
    hollow.module = None  # type: ignore[assignment]
    _zipped(hollow, tmp_path / "model.pt")
    with pytest.raises(InputError, match="DataParallel in the file holds no network"):
        load(tmp_path / "model.pt")
    hooked = nn.DataParallel(nn.Linear(2, 2))
    hooked._forward_hooks[0] = nn.Identity
    _zipped(hooked, tmp_path / "model.pt")
    with pytest.raises(UnsafeCheckpointError, match="_forward_hooks"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["builtins bytearray", "torch FloatTensor"])
def test_nothing_takes_the_memory_that_a_number_says(name: str, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.pt")
    line = name.replace(" ", "\n").encode()
    _replace_pickle(tmp_path / "model.pt", b"\x80\x02c" + line + b"\nJ\xff\xff\xff\x7f\x85R.")
    with pytest.raises(UnsafeCheckpointError, match=name.replace(" ", r"\.")):
        load(tmp_path / "model.pt")


def test_a_pickle_is_no_longer_than_what_describes_tensors(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.pt")
    _replace_pickle(tmp_path / "model.pt", b"\x80\x02" + b"N0" * 10_000_000 + b"N.")
    with pytest.raises(InputError, match=r"data\.pkl unpacks to 20 MB"):
        load(tmp_path / "model.pt")
    _replace_pickle(tmp_path / "model.pt", b"\x80\x02K\x05Q.")
    with pytest.raises(InputError, match="damaged"):
        load(tmp_path / "model.pt")


def _by_pickletools(program: bytes) -> list[str]:
    """The slow and obvious reading."""
    named = [str(arg) for op, arg, _ in pickletools.genops(program) if op.name == "GLOBAL"]
    return [name.replace(" ", ".").replace("__builtin__", "builtins") for name in named]


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_globals_are_those_that_pickletools_finds(protocol: int, tmp_path: Path) -> None:
    content = {"a\nb": [Runs(os.system, "true"), {1, 2.5}, 10**40, b"bytes", "ü" * 300], "c": nn.Linear}
    program = pickle.dumps(content, protocol=protocol)
    (tmp_path / "model.pt").write_bytes(program)
    found = list(globals_of(tmp_path / "model.pt"))
    assert found == _by_pickletools(program)
    assert any("system" in name for name in found)
    torch.save({}, tmp_path / "model.pt")
    _replace_pickle(tmp_path / "model.pt", program)
    assert list(globals_of(tmp_path / "model.pt")) == found


def test_calling_a_class_is_refused(tmp_path: Path) -> None:
    _zipped({"model": Runs(nn.Linear, 10, 10)}, tmp_path / "model.pt")
    with pytest.raises(UnsafeCheckpointError, match="Linear"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_state_dicts_load_in_both_forms(form: str, tmp_path: Path) -> None:
    state = torchvision.models.squeezenet1_1(num_classes=3).state_dict()
    FORMS[form](state, tmp_path / "model.pt")
    read = load(tmp_path / "model.pt")
    assert list(read) == list(state)
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_a_whole_network_in_the_older_form_is_refused_in_words(tmp_path: Path) -> None:
    _legacy(nn.Sequential(nn.Linear(2, 2)), tmp_path / "model.pt")
    with pytest.raises(UnsafeCheckpointError, match="older form"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_truncated_files_are_input_errors(form: str, part: float, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    FORMS[form](nn.Linear(100, 100).state_dict(), file)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * part)])
    with pytest.raises(InputError, match="damaged or cut short"):
        load(file)


def test_globals_are_listed_without_execution(tmp_path: Path) -> None:
    _zipped([Runs(os.system, "true"), torch.zeros(1)], tmp_path / "model.pt")
    assert set(globals_of(tmp_path / "model.pt")) >= {"posix.system", "torch._utils._rebuild_tensor_v2"}


def test_only_plain_module_classes_are_known() -> None:
    known = module_classes("torch.nn")
    assert known["torch.nn.modules.linear.Linear"] is nn.Linear
    assert "torch.nn.functional.relu" not in known
    everything = [*known.values(), *module_classes("torchvision").values()]
    assert all(issubclass(cls, nn.Module) for cls in everything)
    assert not any(issubclass(cls, (torch.fx.GraphModule, torch.jit.ScriptModule)) for cls in everything)


def test_loading_leaves_no_safe_globals_behind(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    _zipped(nn.Sequential(nn.Linear(2, 2)), tmp_path / "model.pt")
    load(tmp_path / "model.pt")
    assert set(torch.serialization.get_safe_globals()) == before


def test_deep_nesting_is_an_input_error(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.pt")
    _replace_pickle(tmp_path / "model.pt", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    with pytest.raises(InputError, match="too deeply"):
        load(tmp_path / "model.pt")


def _replace_pickle(file: Path, program: bytes) -> None:
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, program if name.endswith("data.pkl") else data)
