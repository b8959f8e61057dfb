"""What a file that zsq-compile wrote remembers of the preprocessing of its input, in its metadata."""

import json
from collections.abc import Mapping

from zsq_compile.data.input_spec import InputSpec
from zsq_compile.data.preprocessing import Preprocessing
from zsq_compile.errors import ConfigError

CONTRACT = "zsq_compile.contract"


def read_remembered(entries: Mapping[str, str], spec: InputSpec) -> Preprocessing | None:
    """Return the preprocessing of an input that a model's metadata remember, where it was more than an assumption.

    None where there is none, or where it is that of another input.

    Raises:
        ConfigError: the entry cannot be read.

    """
    try:
        contract = json.loads(entries.get(CONTRACT, "null"))
        if contract is None or contract.get("input", spec.name) != spec.name:
            return None
        found = Preprocessing.from_json(contract)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"what the model says of its origin cannot be read: {error!r}; compile it again") from error
    if not (found.is_proven and found.fits(spec)):  # what nothing proved is looked for again
        return None
    return Preprocessing(
        name=found.name,
        mean=found.mean,
        std=found.std,
        channel_order=found.channel_order,
        source="read",
        reason="the file, where zsq-compile left it",
        layout=spec.layout,
        family=found.family,
    )
