"""Where a compiled model comes from, kept in the model itself: tool, seed, target, float file, input contract.

The entries stand in ``metadata_props``, which every runtime can read and none acts on. They are what
``zsq-compile package`` needs beside the graph, so that a compiled file is enough.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from backends.target import Target
from zsq_compile.errors import ConfigError
from zsq_compile.files import file_sha256
from zsq_compile.frontend.load import LoadedModel
from zsq_compile.version import VERSION

_PREFIX = "zsq_compile."
_CONTRACT_ROOM = 256  # the contract is known after widths were chosen for a size, and must not change the size
_DIGITS = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What a compiled model says of itself; None for what it does not say.

    Attributes:
        version: of zsq-compile.
        seed: of all randomness.
        target: name of the target that it was compiled for.
        source_sha256: of the float model's file.
        sizes: shapes by input that were worked with, where more than the batch on axis 0 is open; None is that batch.
        contract: numbers that the network expects of its first picture, or of its first signal where it takes none:
            name, mean, std, channel_order and inferred, and what these leave open of layout, family, source, input
            (the name) and probability.

    """

    version: str | None = None
    seed: int | None = None
    target: str | None = None
    source_sha256: str | None = None
    sizes: Mapping[str, Sequence[int | None]] = field(default_factory=dict)
    contract: Mapping[str, Any] | None = None


def origin_of(loaded: LoadedModel, target: Target, seed: int) -> Origin:
    """Say where a file comes from, as far as it is known before there are samples."""
    return Origin(
        version=VERSION,
        seed=seed,
        target=target.name,
        source_sha256=file_sha256(loaded.path),
        sizes=loaded.face.working_sizes(loaded.inputs),
    )


def stamp(model: ir.Model, origin: Origin) -> ir.Model:
    """Copy a model with its origin written into it; the contract of every picture, and none, takes the same bytes.

    That of a signal whose features are scaled each by itself may take more.
    """
    seed = None if origin.seed is None else str(origin.seed)
    entries = {"version": origin.version, "seed": seed, "target": origin.target, "source_sha256": origin.source_sha256}
    entries["sizes"] = json.dumps(origin.sizes) if origin.sizes else None
    entries["contract"] = _contract_text(origin.contract)
    copy = model.clone()
    copy.metadata_props.update({f"{_PREFIX}{name}": text for name, text in entries.items() if text is not None})
    return copy


def _contract_text(contract: Mapping[str, Any] | None) -> str:
    kept = ("name", "mean", "std", "channel_order", "inferred", "layout", "family", "source", "input", "probability")
    plain = None if contract is None else {name: _round(contract[name]) for name in kept if name in contract}
    return json.dumps(plain).ljust(_CONTRACT_ROOM)


def read_origin(entries: Mapping[str, str]) -> Origin:
    """Read what ``stamp`` wrote out of a model's metadata; what is missing is None.

    Raises:
        ConfigError: an entry of ours is there and cannot be read.

    """
    found = {name.removeprefix(_PREFIX): text for name, text in entries.items() if name.startswith(_PREFIX)}
    try:
        seed, contract = found.get("seed"), json.loads(found.get("contract", "null"))
        if not (contract is None or isinstance(contract, dict)):
            raise ValueError(f"the contract is {contract!r}")
        sizes = json.loads(found.get("sizes", "{}"))
        if not isinstance(sizes, dict) or not all(isinstance(shape, list) for shape in sizes.values()):
            raise ValueError(f"the sizes are {sizes!r}")
        return Origin(
            version=found.get("version"),
            seed=None if seed is None else int(seed),
            target=found.get("target"),
            source_sha256=found.get("source_sha256"),
            sizes=sizes,
            contract=contract,
        )
    except ValueError as error:
        raise ConfigError(f"what the model says of its origin cannot be read: {error}; compile it again") from error


def _round(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_round(item) for item in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
