"""Weights on the Hugging Face Hub, fetched by its own library into its own cache: hf://OWNER/NAME[@REVISION]."""

import re
from pathlib import Path

from resjax import paths
from resjax.errors import BadInput
from resjax.weights import source

SIGN = "hf://"
ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
CONFIGS = ["config.json", "preprocessor_config.json", source.STEPS]


def local(given: str) -> Path:
    """Where a file or folder lies, or what was fetched of an address on the Hub; raises as `fetched`."""
    return fetched(given) if given.startswith(SIGN) else Path(given)


def fetched(address: str) -> Path:
    """The folder on this machine that holds the weights and the config files; nothing else is fetched.

    Raises:
      BadInput: for an odd address, without the library, or if there are no weights or nothing is reached.
    """
    match = ADDRESS.fullmatch(address)
    if not match:
        raise BadInput(f"{paths.short(address)} is no address on the Hub: write hf://OWNER/NAME or with @REVISION")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise BadInput(f'{address} needs the library of the Hub: pip install "resjax[hub]"') from error
    repository, revision = match.groups()
    for weights in source.WEIGHTS:
        try:
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=[*CONFIGS, weights]))
        except Exception as error:  # of its own kinds, of the network, of the disk
            reason = " ".join(str(error).split())[:300]
            raise BadInput(f"{address} cannot be fetched ({type(error).__name__}: {reason})") from error
        if (folder / weights).is_file():
            return folder
    raise BadInput(f"{address} holds neither {' nor '.join(source.WEIGHTS)}")
