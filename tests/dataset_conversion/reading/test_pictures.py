from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_conversion.reading.pictures import check_written_png, read_grey, write_png
from nnunet_ext.errors import InputError

GREY = np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)


def test_grey_survives_every_way_of_storing_it(tmp_path: Path) -> None:
    picture = Image.fromarray(GREY)
    for mode in ("L", "RGB", "RGBA", "LA"):
        picture.convert(mode).save(tmp_path / "x.png")
        assert np.array_equal(read_grey(tmp_path / "x.png"), GREY)


def test_grey_stored_as_rgb_jpeg(tmp_path: Path) -> None:
    smooth = np.tile(np.arange(0, 200, 2, dtype=np.uint8), (50, 1))
    Image.fromarray(smooth).convert("RGB").save(tmp_path / "x.jpg", quality=75)
    assert np.abs(read_grey(tmp_path / "x.jpg").astype(int) - smooth).max() < 12


@pytest.mark.parametrize("mode", ["F", "I", "CMYK"])
def test_other_pixel_types(tmp_path: Path, mode: str) -> None:
    Image.fromarray(GREY).convert(mode).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=f"pixel type {mode}"):
        read_grey(tmp_path / "x.tif")


def test_colour_and_transparency(tmp_path: Path) -> None:
    colours = np.repeat(GREY[..., None], 3, axis=-1)
    colours[3, 4] = (255, 0, 0)  # an arrow drawn into the slice
    Image.fromarray(colours).save(tmp_path / "x.png")
    with pytest.raises(InputError, match=r"x\.png: is a colour picture"):
        read_grey(tmp_path / "x.png")
    picture = Image.fromarray(GREY).convert("RGBA")
    picture.putalpha(128)
    picture.save(tmp_path / "x.png")
    with pytest.raises(InputError, match="transparent"):
        read_grey(tmp_path / "x.png")


def test_damaged_pictures(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "x.jpg")
    whole = (tmp_path / "x.jpg").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "x.jpg").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.jpg: cannot be read"):
            read_grey(tmp_path / "x.jpg")


def test_written_png_reads_back(tmp_path: Path) -> None:
    write_png(tmp_path / "x.png", GREY)
    check_written_png(tmp_path / "x.png", GREY)
    with pytest.raises(InputError, match="other pixels"):
        check_written_png(tmp_path / "x.png", GREY // 2)
