"""Distinguish pyarrow's errors on a damaged file from a lost connection or a missing file."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from dataset_builder.errors import DamagedInput


@contextmanager
def parquet_damage() -> Iterator[None]:
    """Wrap code that reads Parquet.

    Raises:
        DamagedInput: in place of pyarrow's errors on damaged files, which include plain OSErrors without a number.
    """
    try:
        yield
    except (pa.ArrowInvalid, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise DamagedInput(f"not Parquet, or damaged: {str(error).splitlines()[0]}") from error
