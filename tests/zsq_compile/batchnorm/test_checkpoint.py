import pickle
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from zsq_compile.batchnorm.checkpoint import read_checkpoint
from zsq_compile.errors import ConfigError


def state() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return OrderedDict(
        {
            "conv.weight": torch.randn(4, 3, 3, 3, generator=rng),
            "bn.running_var": torch.rand(4, generator=rng),
            "bn.num_batches_tracked": torch.tensor(7),
        }
    )


class _Trap:
    """A pickle of it writes a file where it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda made: made, ""),
        (lambda made: {"epoch": 3, "state_dict": made}, "state_dict."),
        (lambda made: {"state_dict": {"model": made}, "best": 0.9, "args": ["a", None]}, "state_dict.model."),
        (lambda made: {f"module.{name}": value for name, value in made.items()}, "module."),
        (lambda made: [made, {"lr": 0.1}], "0."),
    ],
)
def test_tensors_are_found_at_any_depth(wrap, prefix, tmp_path):
    torch.save(wrap(state()), tmp_path / "net.th")
    found = read_checkpoint(tmp_path / "net.th")
    assert list(found) == [f"{prefix}conv.weight", f"{prefix}bn.running_var"]
    np.testing.assert_array_equal(found[f"{prefix}conv.weight"], state()["conv.weight"].numpy())


def test_the_format_of_before_zip_files_is_read_too(tmp_path):
    torch.save(state(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert list(read_checkpoint(tmp_path / "old.pt")) == ["conv.weight", "bn.running_var"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_every_width_comes_as_float32_or_float64(dtype, suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    tensors = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state().items()}
    (save_file if suffix == ".safetensors" else torch.save)(tensors, path)
    found = read_checkpoint(path)
    assert sorted(found) == ["bn.running_var", "conv.weight"]
    assert found["conv.weight"].dtype == (np.float64 if dtype == torch.float64 else np.float32)
    np.testing.assert_array_equal(found["conv.weight"], tensors["conv.weight"].double().numpy())


def test_no_code_is_run(tmp_path):
    path, mark = tmp_path / "trap.pt", tmp_path / "it_was_run"
    torch.save({"state_dict": state(), "more": _Trap(mark)}, path)
    with pytest.raises(ConfigError, match=r"holds more than tensors \(getattr\).*not done.*state_dict"):
        read_checkpoint(path)
    assert not mark.exists()
    with path.open("rb") as stream:
        assert stream.read(2) == b"PK"
    pickle.loads(pickle.dumps(_Trap(mark)))
    assert mark.exists(), "the trap would have been seen"


def test_a_whole_module_is_refused_in_words(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(ConfigError, match=r"\(torch\.nn\.modules\.linear\.Linear\).*not done.*model\.state_dict\(\)"):
        read_checkpoint(tmp_path / "module.pt")


def test_a_file_with_settings_beside_the_tensors_is_refused_in_words(tmp_path):
    torch.save({"state_dict": state(), "args": Namespace(lr=0.1)}, tmp_path / "run.pt")
    with pytest.raises(ConfigError, match=r"holds more than tensors \(argparse\.Namespace\)"):
        read_checkpoint(tmp_path / "run.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_refused_in_words(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "script.pt")
    with pytest.raises(ConfigError, match=r"script\.pt cannot be read .*TorchScript.*model\.state_dict\(\)"):
        read_checkpoint(tmp_path / "script.pt")


@pytest.mark.parametrize("name", ["a.pt", "a.th", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x02nonsense", b"PK\x03\x04 no archive"])
def test_nonsense_is_refused_in_words(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"--checkpoint .*{name}"):
        read_checkpoint(tmp_path / name)


def test_a_file_that_is_absent_or_holds_no_tensors_is_refused_in_words(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_checkpoint(tmp_path / "absent.pt")
    torch.save({"steps": torch.tensor([1, 2]), "loss": 0.1}, tmp_path / "empty.pt")
    with pytest.raises(ConfigError, match="no tensors of floating-point numbers"):
        read_checkpoint(tmp_path / "empty.pt")
