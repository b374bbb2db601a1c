"""nnU-Net's image readers, chosen in the same way as by nnU-Net."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nnunet_ext.errors import InputError

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter


def reader_class(dataset_json: Mapping[str, Any], image: str) -> type[BaseReaderWriter]:
    """Return the reader that nnU-Net uses for a data set.

    Args:
        dataset_json: of the data set; may name a reader.
        image: file that the reader must be able to read.

    Raises:
        InputError: no reader can read the image. The traceback that nnU-Net prints for each of them
            is hidden.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    hidden = io.StringIO()
    try:
        with contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
            return determine_reader_writer_from_dataset_json(
                dict(dataset_json), image, verbose=False
            )
    except RuntimeError as error:
        raise InputError(
            f"{image}: none of nnU-Net's readers can read it; convert the data set again"
        ) from error
