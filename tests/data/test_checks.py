"""Pictures as they are stored, captions that stay, and what is rejected for having none left."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from preparekit import ListedSource, candidate, ingested, params_with, picture

from limoe.data.captions import CaptionCheck
from limoe.data.checks import SCORED_TOGETHER, Checks
from limoe.data.pictures import stored
from limoe.data.prepared import Prepared
from limoe.data.rgb import to_rgb
from limoe.data.schema import Record
from limoe.data.sources import Candidate, Rejected
from limoe.data.verify import BadImage
from limoe.errors import UserError


def smooth(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A gradient, which survives lossy encoding."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=2).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, fmt: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def as_params(**changes: Any) -> Any:
    return params_with(*(f"prepare.pictures.{name}={value}" for name, value in changes.items())).prepare.pictures


def opened(image: bytes) -> Image.Image:
    return Image.open(io.BytesIO(image))


def difference(image: bytes, other: Image.Image) -> float:
    """Mean absolute difference of their grey levels, upright."""
    mine, theirs = (np.asarray(to_rgb(one), dtype=np.float64) for one in (opened(image), other))
    assert mine.shape == theirs.shape
    return float(np.abs(mine - theirs).mean())


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", "GIF"])
@pytest.mark.parametrize("changes", [{}, {"shortest_side": 40}, {"shortest_side": 41}])
def test_a_picture_that_needs_nothing_keeps_its_bytes(fmt: str, changes: dict[str, int]) -> None:
    image = encoded(smooth(60, 40), fmt)
    assert stored(image, (60, 40), as_params(**changes)) == (image, (60, 40))


@pytest.mark.parametrize("fmt, kept", [("PNG", "PNG"), ("JPEG", "JPEG"), ("WEBP", "WEBP"), ("BMP", "PNG"), ("TIFF", "PNG")])
def test_a_large_picture_is_scaled_down_in_its_format(fmt: str, kept: str) -> None:
    image, size = stored(encoded(smooth(330, 200), fmt), (330, 200), as_params(shortest_side=50))
    assert size == opened(image).size == (82, 50)  # 82.5, to the even number
    assert opened(image).format == kept
    assert difference(image, smooth(82, 50)) < 3


def test_a_telephones_jpeg_with_others_behind_it_stays_a_jpeg() -> None:
    photo = io.BytesIO()
    smooth(330, 200).save(photo, "MPO", save_all=True, append_images=[smooth(33, 20)])
    assert opened(photo.getvalue()).format == "MPO"
    image, size = stored(photo.getvalue(), (330, 200), as_params(shortest_side=50))
    assert (opened(image).format, size) == ("JPEG", (82, 50))
    assert difference(image, smooth(82, 50)) < 3


def test_scaling_is_antialiased() -> None:
    lines = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (64, 32)))  # columns: any one of them is black or white
    image, _ = stored(encoded(lines, "PNG"), (64, 64), as_params(shortest_side=16))
    assert np.abs(np.asarray(opened(image)).astype(int) - 127.5).max() < 20  # at the edges it is 10


@pytest.mark.parametrize("encode", ["jpeg", "webp", "png"])
def test_every_picture_is_encoded_anew_if_that_is_wanted(encode: str) -> None:
    for fmt in ("PNG", "JPEG", "WEBP"):
        source = encoded(smooth(60, 40), fmt)
        image, size = stored(source, (60, 40), as_params(encode=encode))
        assert (size, opened(image).format) == ((60, 40), encode.upper())
        assert difference(image, opened(source)) < (0.01 if encode == "png" else 3)


def test_quality_is_that_of_pillow() -> None:
    noise = opened(picture(0, 60, 40))
    for quality in (10, 95):
        image, _ = stored(encoded(noise, "PNG"), (60, 40), as_params(encode="jpeg", quality=quality))
        assert image == encoded(noise, "JPEG", quality=quality)


def test_what_is_stored_anew_is_upright_and_without_metadata() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    source = encoded(smooth(60, 40), "JPEG", exif=turned, icc_profile=b"profile" * 30)
    image, size = stored(source, (60, 40), as_params(encode="png", shortest_side=20))
    assert size == opened(image).size == (20, 30)
    assert difference(image, smooth(60, 40).rotate(-90, expand=True).resize((20, 30), Image.Resampling.BICUBIC)) < 3
    assert not opened(image).getexif()
    assert "icc_profile" not in opened(image).info


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK"])
def test_any_kind_becomes_rgb(mode: str) -> None:
    source = encoded(smooth(60, 40, mode), "TIFF" if mode == "CMYK" else "PNG")
    image, _ = stored(source, (60, 40), as_params(encode="jpeg"))
    assert opened(image).mode == "RGB"


def test_what_a_format_cannot_hold_is_rejected() -> None:
    long = encoded(Image.new("L", (17_000, 4)), "PNG")
    with pytest.raises(BadImage) as caught:
        stored(long, (17_000, 4), as_params(encode="webp"))
    assert caught.value.reason == "not-encodable"
    assert caught.value.detail.startswith("17000 x 4 px as WEBP: ")
    with pytest.raises(BadImage) as caught:
        stored(b"a source may vouch for anything", (5, 5), as_params(encode="webp"))
    assert caught.value.reason == "undecodable"


def words(*overrides: str) -> CaptionCheck:
    return CaptionCheck(params_with(*(f"prepare.captions.{override}" for override in overrides)).prepare.captions)


def test_captions_are_kept_by_their_length() -> None:
    check = words("min_chars=3", "max_chars=5")
    assert [check(text) is None for text in ("ab", "abc", "häuse", "abcdef")] == [False, True, True, False]
    assert check("ab") == ("caption-length", "2 characters; prepare.captions wants at least 3, at most 5")
    assert words("min_chars=3", "max_chars=null")("x" * 100_000) is None
    with pytest.raises(UserError, match=r"max_chars \(2\) must not be below min_chars \(3\)"):
        words("min_chars=3", "max_chars=2")


SAID = {
    "en": "a black dog runs along the beach with a stick in its mouth",
    "de": "ein schwarzer Hund läuft mit einem Stock im Maul am Strand entlang",
    "fr": "un chien noir court le long de la plage avec un bâton dans la gueule",
    "ru": "чёрная собака бежит по пляжу с палкой в зубах",
    "zh": "一只黑狗叼着棍子在沙滩上奔跑",
}


@pytest.mark.parametrize("kept", [("en",), ("de",), ("ru", "zh"), ("fr", "en")])
def test_captions_are_kept_by_their_language(kept: tuple[str, ...]) -> None:
    check = words(f"languages=[{', '.join(kept)}]")
    assert {language for language, text in SAID.items() if check(text) is None} == set(kept)
    left = next(text for language, text in SAID.items() if language not in kept)
    assert check(left) is not None
    assert check(left)[0] == "other-language"  # type: ignore[index]
    assert check(left)[1].endswith(f" for {', '.join(kept)} of prepare.captions.languages")  # type: ignore[index]


def test_a_language_that_nobody_knows_is_named() -> None:
    with pytest.raises(UserError, match=r"prepare.captions.languages: no language 'eng'; known are .*; did you mean en\?"):
        words("languages=[eng]")


def lengths(images: Sequence[bytes], captions: Sequence[Sequence[str]]) -> list[list[float]]:
    """As a score, a hundredth of a caption's length."""
    assert len(images) == len(captions) <= SCORED_TOGETHER
    return [[len(caption) / 100 for caption in own] for own in captions]


def checked(items: list[Candidate | Rejected], *overrides: str) -> tuple[list[Record | Rejected], dict[str, int]]:
    params = params_with(*(f"prepare.{override}" for override in overrides)).prepare
    checks = Checks(params, CaptionCheck(params.captions), lengths if params.clip_score else None)
    return list(checks.run(items)), dict(checks.dropped)


SCORED = "clip_score={model: {path: somewhere}, at_least: 0.05}"


def test_captions_go_alone_and_the_last_one_takes_the_record_with_it() -> None:
    items: list[Candidate | Rejected] = [
        candidate("a", captions=("x", "long enough", "also long")),
        candidate("b", captions=("x", "yz")),
        Rejected("c", "listed", "missing-file", "gone"),
        candidate("d", b"no picture", captions=("long enough",)),
    ]
    for settings, reason, detail in (
        (("captions.min_chars=5",), "caption-length", "1 characters; prepare.captions wants at least 5, at most 10000"),
        ((SCORED,), "low-clip-score", "0.010"),
    ):
        found, dropped = checked(items, *settings)
        assert isinstance(found[0], Record)
        assert found[0].captions == ("long enough", "also long")
        assert found[1] == Rejected("b", "listed", reason, detail)
        assert found[2] == items[2]
        assert isinstance(found[3], Rejected)
        assert found[3].reason == "undecodable"
        assert dropped == {reason: 1}


def test_scores_keep_the_order_over_more_than_one_round() -> None:
    count = 2 * SCORED_TOGETHER + 3
    items: list[Candidate | Rejected] = [
        Rejected(str(n), "listed", "odd") if n % 3 == 0 else candidate(str(n), captions=("x" * (1 + n % 9),))
        for n in range(count)
    ]
    found, _ = checked(items, SCORED)
    assert [one.key for one in found] == [str(n) for n in range(count)]
    assert [isinstance(one, Record) for one in found] == [n % 3 != 0 and 1 + n % 9 >= 5 for n in range(count)]


def test_the_manifest_counts_what_was_left_out_and_the_record_says_what_is_stored(tmp_path: Path) -> None:
    items: list[Candidate | Rejected] = [
        candidate("a", encoded(smooth(60, 40), "PNG"), captions=("x", "long enough")),
        candidate("b", captions=("yz",)),
        candidate("c", encoded(smooth(40, 60), "PNG"), captions=("another one",), size=(40, 60)),
    ]
    params = params_with(
        "prepare.captions.min_chars=5",
        "prepare.pictures.shortest_side=20",
        "prepare.pictures.encode=webp",
        "prepare.tokenizer.vocab_size=200",
    ).prepare
    manifest = ingested({"listed": ListedSource(items)}, params, tmp_path / "out")
    assert manifest["rejected"] == {"caption-length": 1}
    assert manifest["dropped_captions"] == {"caption-length": 1}
    rows = Prepared(tmp_path / "out").table("train").to_pylist()
    assert [(row["key"], row["width"], row["height"], row["captions"]) for row in rows] == [
        ("a", 30, 20, ["long enough"]),
        ("c", 20, 30, ["another one"]),
    ]
    assert [opened(row["image"]).size for row in rows] == [(30, 20), (20, 30)]
