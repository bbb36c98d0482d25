"""Read rows of a Parquet file, a few at a time and only in the wanted columns."""

from collections.abc import Callable, Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.corpus.parquet_damage import parquet_damage
from dataset_builder.errors import DamagedInput


ROWS_AT_A_TIME = 32
MAX_GROUP_BYTES = 4_000_000_000  # largest row group, uncompressed, according to its header


def read_parquet(url: str, choose: Callable[[pa.Schema, str], list[str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and content of each row.

    Args:
        url: path or address.
        choose: returns the names of the columns to read, in order, given the schema and the address (for messages);
            raises `ValueError` if a column is missing.

    Raises:
        DamagedInput: for a damaged file, after the rows before that place.
    """
    with fsspec.open(url, "rb") as file, parquet_damage():
        table = pq.ParquetFile(file)
        columns = choose(table.schema_arrow, url)
        groups = (table.metadata.row_group(index) for index in range(table.num_row_groups))
        if any(group.total_byte_size > MAX_GROUP_BYTES for group in groups):
            raise DamagedInput(f"a row group of more than {MAX_GROUP_BYTES} bytes")
        number = 0
        for batch in table.iter_batches(ROWS_AT_A_TIME, columns=columns):
            for values in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                yield number, dict(zip(columns, values, strict=True))
                number += 1
