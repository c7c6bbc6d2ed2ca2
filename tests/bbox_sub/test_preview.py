"""The sheet of training pictures: what stands on it, and that nothing is needed for it but annotated data."""

import numpy as np
import pytest
from PIL import Image

from bbox_sub.preview import N_MEDIA, N_SHOWN, SIDE, draw_sheet, main, some_media
from bbox_sub.sheet import LABELLED_RGB
from bbox_sub.targets import LabelledPicture
from shared.config import Config, dump_config
from shared.dataset import read_dataset
from shared.errors import UserError
from shared.frames import write_jpeg
from tests.limits import LIMITS


def changed(config, **keys):
    tree = config.model_dump()
    tree["detector_train"].update(keys)
    return Config.model_validate(tree)


def test_the_verb_writes_a_picture_and_prints_where(tiny_data, tiny_config, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(dump_config(tiny_config))
    arguments = ["--config", str(tmp_path / "config.yaml"), "--data", str(tiny_data), "--work", str(tmp_path / "work")]
    main(arguments)
    assert capsys.readouterr().out == f"{tmp_path / 'work' / 'preview_detector.png'}\n"
    first = np.asarray(Image.open(tmp_path / "work" / "preview_detector.png"))
    assert (first == LABELLED_RGB).all(axis=2).sum() > 24 * 100  # a rectangle on every picture, at least
    main([*arguments, "--out", str(tmp_path / "deep" / "sheet.png")])
    assert capsys.readouterr().out == f"{tmp_path / 'deep' / 'sheet.png'}\n"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "deep" / "sheet.png")), first)  # the seed decides
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"preview_detector", "preview_detector.png"}


def test_boxes_are_drawn_around_what_they_mark(tiny_config, tmp_path):
    image = np.zeros((60, 120, 3), np.uint8)
    image[12:36, 30:90] = 200, 30, 30
    write_jpeg(tmp_path / "a.jpg", image)
    picture = LabelledPicture(str(tmp_path / "a.jpg"), np.float32([[30, 12, 90, 36]]), np.array([1]))
    sheet = np.asarray(draw_sheet([picture], changed(tiny_config, flip=0.0, zoom=1.0, colour_jitter=0.0)))
    drawn = (sheet == LABELLED_RGB).all(axis=2)
    drawn[:60] = False  # the key's
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    top, left = rows[0] - SIDE * 12 // 120, columns[0] - SIDE * 30 // 120  # of the first tile
    tile = sheet[top : top + SIDE // 2, left : left + SIDE]
    red = (tile[..., 0] > 120) & (tile[..., 1] < 90)
    inside = np.zeros_like(red)
    inside[24:72, 60:180] = True
    assert red[26:70, 62:178].mean() > 0.98 and not red[~inside].any()  # the rectangle is drawn within, two pixels wide
    assert (
        drawn[top + 24 : top + 26, left + 60 : left + 180].all()
        and drawn[top + 24 : top + 72, left + 60 : left + 62].all()
    )
    assert (
        drawn[top + 70 : top + 72, left + 60 : left + 180].all()
        and drawn[top + 24 : top + 72, left + 178 : left + 180].all()
    )


def test_the_sheet_has_so_many_pictures_or_those_that_training_sees(tiny_config, tmp_path):
    write_jpeg(tmp_path / "white.jpg", np.full((64, 64, 3), 255, np.uint8))
    picture = LabelledPicture(str(tmp_path / "white.jpg"), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for iterations, n_shown in ((2, 6), (50, N_SHOWN)):
        phases = [
            {"iterations": iterations, "short_sides": [64], "learning_rate": 0.1, "batch_size": 3, "start": "last"}
        ]
        config = changed(tiny_config, phases=phases, zoom=1.0, colour_jitter=0.0)
        sheet = np.asarray(draw_sheet([picture], config))
        assert (sheet == 255).all(axis=2).sum() == n_shown * SIDE**2


def test_some_photos_and_videos_of_the_training_parts_serve(tiny_data, tiny_config, monkeypatch):
    dataset = read_dataset(tiny_data, LIMITS)
    media = some_media(dataset, tiny_config).media
    assert (
        set(media.part) == {"train"} and media.kind.value_counts().to_dict() == {"photo": 4, "video": 2} and N_MEDIA > 4
    )
    monkeypatch.setattr("bbox_sub.preview.N_MEDIA", 1)
    assert some_media(dataset, tiny_config).media.kind.tolist() == ["photo", "video"]


def test_data_without_labels_is_refused(tiny_data, tiny_config):
    for path in tiny_data.glob("*/*_annotation/**/*.json"):
        path.unlink()
    with pytest.raises(UserError, match=r"no labelled picture to show.*detector_train\.parts"):
        some_media(read_dataset(tiny_data, LIMITS), tiny_config)
