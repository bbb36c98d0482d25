"""What pyarrow raises on a damaged file, told apart from a lost connection or a file that is gone."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from dataset_builder.errors import DamagedInput


@contextmanager
def parquet_damage() -> Iterator[None]:
    """Around whatever reads Parquet.

    Raises:
        DamagedInput: in place of pyarrow's errors on damaged files; its plain OSErrors without a number are such.
    """
    try:
        yield
    except (pa.ArrowInvalid, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        raise DamagedInput(f"no Parquet, or damaged: {str(error).splitlines()[0]}") from error
