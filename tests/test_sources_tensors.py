"""Tensors and modules that no network can compute with: a sentence each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from structprune import channel_groups
from structprune.errors import InputError
from structprune.models import read
from structprune.models.definitions import cifar_resnet20
from structprune.models.identify import identify, shapes_of
from structprune.models.tensors import check_tree, inner_network


def _holding_itself() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4))
    module._modules["me"] = module
    return module


def _holding_its_parent() -> nn.Module:
    outer, inner = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4))
    outer._modules["inner"], inner._modules["outer"] = inner, outer
    return nn.Sequential(outer)


def _expanded_module() -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4))
    module[0].weight = nn.Parameter(torch.zeros(1).expand(2_000_000_000, 1))
    return module


FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e8m0fnu]

ODD: dict[str, tuple[object, str]] = {
    **{
        str(dtype): ({"w": torch.zeros(4, 4).to(dtype)}, f"w is stored as {str(dtype)[6:]}.*scales")
        for dtype in FLOAT8
    },
    "fp4": ({"w": torch.zeros(4, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)}, "stored as float4"),
    "bits": ({"w": torch.zeros(4, 4, dtype=torch.uint8).view(torch.bits8)}, "stored as bits8"),
    "meta": ({"w": torch.zeros(4, 4, device="meta")}, "w is on the meta device"),
    "meta network": (cifar_resnet20().to("meta"), "is on the meta device"),
    "stride 0": ({"w": torch.zeros(16).expand(128_000_000, 16)}, "8.19 GB.*64 bytes of it, repeated"),
    "overlapping": ({"w": torch.zeros(100_000).as_strided((50_000, 50_000), (1, 1))}, "10 GB"),
    "stride 0 in a network": (_expanded_module(), r"0\.weight .* 8 GB.*4 bytes"),
    "sparse": ({"w": torch.eye(3).to_sparse()}, "w is a sparse tensor"),
    "itself": (_holding_itself(), "a Sequential holds itself"),
    "its parent": ({"model": _holding_its_parent()}, "a Sequential holds itself"),
    "whole numbers": ({"w": torch.zeros(4, 4, dtype=torch.int8)}, "'w', a tensor of torch.int8"),
    "not finite": ({"net.\n": torch.tensor([1.0, 2.0])}, "fits no known network"),
}


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("trust", [False, True])
def test_each_gets_a_sentence(case: str, trust: bool, tmp_path: Path) -> None:
    content, sentence = ODD[case]
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=sentence) as caught:
        read(str(tmp_path / "odd.pt"), trust_pickle=trust)
    assert str(caught.value).startswith("odd.pt")
    assert "\n" not in str(caught.value)


def test_a_dict_that_holds_itself_is_a_sentence(tmp_path: Path) -> None:
    content: dict[str, object] = {"w": torch.zeros(3)}
    content["state_dict"] = content["model"] = content
    torch.save(content, tmp_path / "odd.pt")
    for trust in (False, True):
        with pytest.raises(InputError, match=r"odd\.pt"):
            read(str(tmp_path / "odd.pt"), trust_pickle=trust)


@pytest.mark.parametrize(("kind", "size"), [("F8_E4M3", 16), ("F8_E5M2", 16), ("F8_E8M0", 16), ("F4", 8)])
def test_safetensors_of_narrow_types_are_a_sentence(kind: str, size: int, tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": kind, "shape": [4, 4], "data_offsets": [0, size]}}).encode()
    (tmp_path / "odd.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with pytest.raises(InputError, match=rf"odd\.safetensors: w is stored as {kind}.*scales"):
        read(str(tmp_path / "odd.safetensors"))


HEADERS = {
    "levels": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "lists": b'{"__metadata__":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "unknown type": b'{"w":{"dtype":"Q4","shape":[4],"data_offsets":[0,2]}}',
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_of_safetensors_are_sentences(case: str, tmp_path: Path) -> None:
    header = HEADERS[case]
    (tmp_path / "odd.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    with pytest.raises(InputError, match=r"odd\.safetensors is damaged"):
        read(str(tmp_path / "odd.safetensors"))


def test_a_header_is_no_longer_than_its_file(tmp_path: Path) -> None:
    (tmp_path / "odd.safetensors").write_bytes((2**31).to_bytes(8, "little") + b'{"' + b" " * 100)
    with pytest.raises(InputError, match=r"its header claims 2\.15 GB, of 110 bytes"):
        read(str(tmp_path / "odd.safetensors"))


NAMES = ["layer1.².weight", "fc.².weight", f"fc.{'9' * 6000}.weight", "fc.٣.weight", "fc.\ud800.weight", "."]


@pytest.mark.parametrize("name", NAMES)
def test_digits_that_are_none_and_names_of_any_kind(name: str, tmp_path: Path) -> None:
    state = {name: torch.zeros(3, 3), "fc.1.weight": torch.zeros(3, 3)}
    assert identify(shapes_of(state)) is None
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=r"odd\.pt: .* of 2 keys fit"):
        read(str(tmp_path / "odd.pt"))


def test_whole_numbers_are_no_weights_of_a_network(tmp_path: Path) -> None:
    state = cifar_resnet20().state_dict()
    state["layer1.0.conv1.weight"] = (state["layer1.0.conv1.weight"] * 100).to(torch.int8)
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=r"layer1\.0\.conv1\.weight is stored as int8"):
        read(str(tmp_path / "odd.pt"))


def test_counters_that_the_network_has_not_are_no_hindrance(tmp_path: Path) -> None:
    state = {**cifar_resnet20().state_dict(), "conv1.num_batches_tracked": torch.tensor(3)}
    torch.save(state, tmp_path / "model.pt")
    assert read(str(tmp_path / "model.pt")).architecture is not None


def test_repeated_values_of_ordinary_size_are_read(tmp_path: Path) -> None:
    state = cifar_resnet20().state_dict()
    state["bn1.running_var"] = torch.ones(1).expand(16)
    torch.save(state, tmp_path / "model.pt")
    assert torch.equal(read(str(tmp_path / "model.pt")).model.get_buffer("bn1.running_var"), torch.ones(16))


def test_tensors_take_no_more_than_their_file_can_hold(tmp_path: Path) -> None:
    whole = nn.Sequential(nn.Linear(2, 2))
    save_file({"w": torch.zeros(2)}, tmp_path / "small.safetensors")
    from structprune.models.tensors import check_memory

    check_memory(whole.parameters(), tmp_path / "small.safetensors")
    with pytest.raises(InputError, match=r"claims tensors of 400 MB"):
        check_memory([torch.empty(100_000_000)], tmp_path / "small.safetensors")


def _chain(levels: int) -> nn.Module:
    module: nn.Module = nn.Linear(2, 2)
    for _ in range(levels):
        module = nn.Sequential(module)
    return module


def test_modules_nest_as_deep_as_torch_can_walk() -> None:
    check_tree(_chain(150), "it")
    _chain(150).state_dict()
    with pytest.raises(InputError, match="nest more than 200 levels"):
        check_tree(_chain(1000), "it")


@pytest.mark.parametrize("make", [_holding_itself, _holding_its_parent])
def test_networks_from_elsewhere_hold_themselves_no_more(
    make: Callable[[], nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="holds itself"):
        channel_groups(make(), torch.zeros(1, 4))
    lines = "from torch import nn\ndef make():\n    m = nn.Sequential(); m._modules['m'] = m\n    return m\n"
    (tmp_path / "odd_networks.py").write_text(lines)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="the factory odd_networks:make: a Sequential holds itself"):
        read("odd_networks:make")


def test_a_shared_module_holds_nothing_twice() -> None:
    shared = nn.Linear(2, 2)
    check_tree(nn.Sequential(shared, nn.Sequential(shared), shared), "it")


def test_the_network_in_a_wrapper() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    assert inner_network(nn.DataParallel(nn.DataParallel(network))) is network
    assert inner_network(torch.compile(network)) is network  # type: ignore[arg-type]
    around_itself: nn.Module = nn.DataParallel(network)
    around_itself.module = around_itself
    assert inner_network(around_itself) is around_itself
