import json
from typing import Any

import numpy as np
import pytest

from agentlib.data import load_scenes, scene_parts
from agentlib.data.scene_files import load_coco, load_voc, mask_of

Image = pytest.importorskip("PIL.Image")

BOX = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 1, 4, 3]}
POLYGON = [[2, 1, 6, 1, 6, 4, 2, 4]]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (10, 8), (200, 10, 0)).save(tmp_path / name)
    return tmp_path


def written(folder, *annotations, **changes):
    content: dict[str, Any] = {
        "images": [{"id": 7, "file_name": "a.png", "width": 10, "height": 8}, {"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": list(annotations),
    } | changes
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_coco(folder):
    crowd = BOX | {"iscrowd": 1, "segmentation": {"size": [8, 10], "counts": [80]}}
    small = BOX | {"category_id": 1, "bbox": [3.0, 2.0, 1.0, 1.0], "segmentation": [[3, 2, 4, 2, 4, 3, 3, 3]]}
    texts = [{"image_id": 7, "caption": "one"}, {"image_id": 7, "caption": "two"}, {"image_id": 9, "caption": "none"}]
    found = load_scenes(written(folder, small, BOX | {"segmentation": POLYGON}, crowd, *texts))
    assert found.images.shape == (2, 3, 8, 10)
    assert found.classes == ("dog", "cat")
    assert found.known("boxes")[0].tolist() == [[2, 1, 6, 4], [3, 2, 4, 3]]
    assert found.known("labels").tolist() == [[1, 0], [-1, -1]]
    mask = np.zeros((8, 10), np.uint8)
    mask[1:4, 2:6], mask[2, 3] = 1, 2  # the smaller one is seen
    assert np.array_equal(found.known("masks")[0].numpy(), mask)
    assert found.captions == ("one", "none")
    twice = load_scenes(f"{folder}#16x20")
    assert twice.known("boxes")[0, 0].tolist() == [4, 2, 12, 8]
    assert int((twice.known("masks") == 1).sum()) == 4 * (4 * 3 - 1)
    assert load_coco(written(folder, BOX)).masks is None
    with pytest.warns(UserWarning, match="no masks, because an object of picture 7 has no segmentation"):
        assert load_coco(written(folder, BOX, BOX | {"segmentation": POLYGON})).masks is None


def test_masks_of_polygons_and_runs():
    square = mask_of(POLYGON, (8, 10))
    expected = np.zeros((8, 10), bool)
    expected[1:4, 2:6] = True
    assert np.array_equal(square, expected)
    triangle = mask_of([[0, 0, 8, 0, 0, 8]], (8, 8))
    assert triangle.sum() == pytest.approx(32, abs=4)
    assert triangle[0, 0]
    assert not triangle[7, 7]
    runs = [17, 3, 5, 3, 5, 3, 5, 3, 36]  # column by column
    assert np.array_equal(mask_of({"size": [8, 10], "counts": runs}, (8, 10)), expected)
    with pytest.raises(ValueError, match="run lengths of 3 pixels do not fill a picture of 8 x 10"):
        mask_of({"size": [8, 10], "counts": [3]}, (8, 10))
    with pytest.raises(ValueError, match="three points at least, not 5 numbers"):
        mask_of([[1, 2, 3, 4, 5]], (8, 10))


def test_packed_runs_equal_pycocotools():
    coco = pytest.importorskip("pycocotools.mask")
    for seed in range(5):
        mask = np.random.default_rng(seed).random((60, 70)) < (0.5, 0.001)[seed % 2]
        packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        packed["counts"] = packed["counts"].decode()
        assert np.array_equal(mask_of(packed, mask.shape), mask)


def test_a_box_over_the_edge_by_a_pixel_is_cut_off(folder):
    found = load_coco(written(folder, BOX | {"bbox": [2, 1, 8.6, 3]}))
    assert found.known("boxes")[0, 0].tolist() == [2, 1, 10, 4]
    with pytest.raises(ValueError, match="reaches outside of the picture"):
        load_coco(written(folder, BOX | {"bbox": [2, 1, 12, 3]}))


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([5, 2, 8, 7], r"has a box 5, 2, 8, 7, which reaches .* As the corners .* it would fit: write 5, 2, 3, 5$"),
        ([-3, 1, 5, 2], r"picture 7, of 8 x 10 pixels, has a box -3, 1, 5, 2, which reaches outside .*: COCO's boxes"),
        ([2, 1, 0, 3], r"has a box 2, 1, 0, 3, which is empty: COCO's boxes are x, y, width and height in pixels$"),
        ([2, 1, float("nan"), 3], "which is empty"),
    ],
)
def test_boxes_of_another_convention(folder, box, message):
    with pytest.raises(ValueError, match=message):
        load_coco(written(folder, BOX | {"bbox": box}))


def test_what_is_wrong_with_annotations_is_said(folder):
    wrong: list[tuple[list[Any], dict[str, Any], str]] = [
        ([BOX | {"category_id": 2}], {}, "picture 7 has an object of category 2, which is not listed"),
        ([BOX | {"bbox": []}], {}, "no COCO-style annotations: ValueError not enough values"),
        ([BOX | {"bbox": None}], {}, "no COCO-style annotations: TypeError"),
        (
            [BOX | {"segmentation": {"counts": [80]}}],
            {},
            "picture 7 has a segmentation that cannot be read: KeyError .size",
        ),
        ([BOX | {"segmentation": [[1, 2, 3]]}], {}, "picture 7 has a segmentation .* not 3 numbers"),
        ([BOX | {"segmentation": POLYGON}] * 256, {}, "a picture has 256 objects, and 255 at most are possible"),
        ([BOX | {"image_id": 8}], {}, "no COCO-style annotations: KeyError 8"),
        ([BOX], {"images": [{"id": 7, "file_name": "c.png"}]}, "there is no image 'c.png'"),
        ([BOX], {"images": [{"id": 7, "file_name": "../a.png"}]}, r"image '../a.png' is outside of the folder"),
        ([], {"images": []}, "list no images"),
        ([BOX], {"images": [{"id": 7, "file_name": "a.png", "width": 8, "height": 10}]}, "annotate images as a viewer"),
    ]
    for annotations, changes, message in wrong:
        with pytest.raises(ValueError, match=message):
            load_coco(written(folder, *annotations, **changes))
    (folder / "instances.json").write_text("{")
    with pytest.raises(ValueError, match="holds no COCO-style annotations"):
        load_scenes(folder)
    (folder / "instances.json").unlink()
    for name in ("dataset_info.json", "state.json", "dataset_dict.json"):  # of Hugging Face: other data, not scenes
        (folder / name).write_text("{}")
        with pytest.raises(ValueError, match="holds no scenes"):
            load_scenes(folder)
    for name in ("dataset_info.json", "state.json", "dataset_dict.json"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match="holds no scenes"):
        load_scenes(folder)
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_scenes(folder / "nothing")


def test_images_are_as_a_viewer_shows_them(folder):
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    Image.new("RGB", (8, 10)).save(folder / "a.png", exif=exif)
    assert load_coco(written(folder, BOX)).sides == (8, 10)


VOC = """<annotation><filename>a.png</filename><size><width>10</width><height>8</height></size>
<object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>{xmax}</xmax><ymax>8</ymax></bndbox></object>
</annotation>"""


def test_voc(folder):
    (folder / "Annotations").mkdir()
    (folder / "JPEGImages").mkdir()
    (folder / "a.png").rename(folder / "JPEGImages" / "a.png")
    (folder / "b.png").rename(folder / "JPEGImages" / "b.png")
    file = folder / "Annotations" / "a.xml"
    file.write_text(VOC.format(xmax=10))
    (folder / "Annotations" / "b.xml").write_text("<annotation></annotation>")
    found = load_scenes(folder)
    assert found.known("boxes").tolist() == [[[0, 1, 10, 8]], [[0, 0, 0, 0]]]  # from the first to the last pixel
    assert found.classes == ("cat",)
    assert load_voc(folder, (4, 5)).known("boxes")[0].tolist() == [[0, 0.5, 5, 4]]
    with pytest.raises(ValueError, match="too few for a training, a validation and a test part"):
        scene_parts(str(folder))
    for text, message in [
        (VOC.format(xmax="many"), "no VOC-style annotation"),
        (VOC.format(xmax=10).replace("<name>cat</name>", ""), "no VOC-style annotation: an object has no name"),
        (VOC.format(xmax=1)[:-5], "is no XML that can be read"),
        ('<!DOCTYPE a [<!ENTITY x "y">]>' + VOC.format(xmax="&x;"), "declares a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">' + VOC.format(xmax=3), "declares a document type"),
    ]:
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_voc(folder)
    file.unlink()
    (folder / "Annotations" / "b.xml").unlink()
    with pytest.raises(ValueError, match=r"holds no \.xml files"):
        load_voc(folder)
