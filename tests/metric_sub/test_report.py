"""The report: every video has a card, what comes from outside is escaped, pictures show what they say, no truth no score."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from metric_sub.match_picture import draw_match
from metric_sub.pairs import COLUMNS as PAIR_COLUMNS
from metric_sub.probability import match_probability
from metric_sub.report import main
from metric_sub.result import build_result, write_result
from metric_sub.vote import cast_votes, match_items
from shared.catalogue import catalogue_media
from shared.config import load_config
from shared.errors import UserError
from shared.work import Step, read_step
from tests.conftest import data_limits

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "tiny.yaml"
BOX_RGB = (255, 45, 135)
PHOTO_BOX, FRAME_BOX = (100.0, 200.0, 500.0, 700.0), (10.0, 20.0, 50.0, 60.0)
RULE = {
    "keep_quantile": 0.28,
    "min_share": 0.5,
    "max_distance": 1.12,
    "vote_weight": "count",
    "weight_scale": 1.0,
    "successive_frames": 0,
    "assignment": "nearest",
}
HOSTILE = ["<script>alert(1)<", '"><img src=x onerror=alert(1)>', "' onclick='x", "käse-7", "&amp;{{ 7 * 7 }}"]
GREY = (128, 128, 128)


def write_photo(root, item_id, colour_rgb=GREY, name="0"):
    path = root / "image" / item_id / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (640, 800), colour_rgb).save(path)


def write_video(root, video_id, n_frames=8):
    """Frame k is grey of level 20 (k + 1)."""
    path = root / "video" / f"{video_id}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(f"file:{path}", "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 96, "yuv420p"
        stream.bit_rate = 2_000_000
        for k in range(n_frames):
            picture = av.VideoFrame.from_ndarray(np.full((96, 64, 3), 20 * (k + 1), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def write_labels(root, item_id, video_id=None, photo_box=PHOTO_BOX):
    """The item's photo and, where one is named, its video are labelled with the item's boxes (in frames 0 and 4)."""
    instance = int(f"2{item_id[1:]}01")

    def labels(box):
        return [{"label": "dress", "viewpoint": 0, "display": 0, "instance_id": instance, "box": box}]

    path = root / "image_annotation" / item_id / "0.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"annotations": labels(photo_box)}))
    if video_id:
        path = root / "video_annotation" / f"{video_id}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"frames": [{"frame_index": k, "annotations": labels(FRAME_BOX)} for k in (0, 4)]}))


def write_run(root, work, pairs, part="", calibration=None, further=0):
    """A work folder as infer leaves it, each pair (item, video, distance) one vote for frame 5; files of folder `part`; every
    match has so many further pairs, each with frame_box 10 px lower than the one before."""
    catalogue_media(root, work, data_limits(), fresh=False)
    sides = ["x1", "y1", "x2", "y2"]
    photos = pd.DataFrame(
        [(item, f"{part}image/{item}/0.png", "0", 0, *PHOTO_BOX, 0.9) for item, _, _ in pairs],
        columns=["item_id", "media_id", "name", "rank", *sides, "score"],
    )
    videos = pd.DataFrame(
        [(video, f"{part}video/{video}.mp4", 5, 0, *FRAME_BOX, 0.9) for _, video, _ in pairs],
        columns=["video_id", "media_id", "frame_index", "rank", *sides, "score"],
    )
    number = dict.fromkeys([*sides, "score"], "float32") | {"rank": "int64"}
    photos = photos.astype(dict.fromkeys(["item_id", "media_id", "name"], "str") | number)
    videos = videos.astype({"video_id": "str", "media_id": "str", "frame_index": "int64"} | number)
    votes = cast_votes(
        photos, videos, np.array([distance for _, _, distance in pairs], np.float32), np.arange(len(pairs))
    )
    matches, votes = match_items(votes, **RULE)
    matches = matches.assign(probability=match_probability(matches.distance.to_numpy(), calibration))
    settings = load_config(CONFIG, []).match.model_dump() | RULE
    settings["calibration"] = calibration and calibration.model_dump()
    Step(work / "detections" / "videos", {}).write({"table": videos.rename(columns={"video_id": "item_id"})})
    lower = [matches.assign(place=k, fy1=matches.fy1 + 10 * k, fy2=matches.fy2 + 10 * k) for k in range(further + 1)]
    further_pairs = pd.concat(lower)[PAIR_COLUMNS].query("place > 0")
    Step(work / "matches", settings).write({"table": matches, "votes": votes, "pairs": further_pairs})
    write_result(build_result(matches, further_pairs), work / "result.json")


def report(root, work, *options):
    main(
        [
            "--config",
            str(CONFIG),
            "--data",
            str(root),
            "--work",
            str(work),
            *map(str, options),
            "threads=1",
            "frames.start=4",
        ]
    )
    return Page((work / "report.html").read_text(encoding="utf-8"))


class Page(HTMLParser):
    """The page as a browser takes it apart: its elements, and per card what it says and shows."""

    def __init__(self, text):
        super().__init__()
        self.text, self.elements, self.cards, self.words, self.rows = text, [], {}, "", []
        self._card, self._in_table = None, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag == "table":
            self._in_table = True
        if tag == "tr":
            self.rows.append([])
        if tag == "article":
            self._card = {
                "ids": attributes["data-ids"].split("\n"),
                "states": attributes["data-states"].split(),
                "words": "",
                "pictures": [],
                "boxes": [],
            }
            self.cards[self._card["ids"][0]] = self._card
        if tag == "img" and self._card:
            self._card["pictures"].append(decoded(attributes["src"]))
            self._card["boxes"].append({})
        if tag == "i" and self._card and attributes["class"].startswith("box "):
            place = re.fullmatch(r"left:([\d.]+)%;top:([\d.]+)%;width:([\d.]+)%;height:([\d.]+)%", attributes["style"])
            self._card["boxes"][-1][attributes["class"].split()[1]] = [float(part) for part in place.groups()]

    def handle_endtag(self, tag):
        if tag == "table":
            self._in_table = False
        if tag == "article":
            self._card["words"] = " ".join(self._card["words"].split())
            self._card = None

    def handle_data(self, data):
        self.words += data
        if self._in_table and data.strip() and self.elements[-1][0] in ("th", "td", "bdi"):
            self.rows[-1].append(data)
        if self._card:
            self._card["words"] += data

    def inside(self, tag):
        """The tags that come after the first of `tag`."""
        tags = [name for name, _ in self.elements]
        return set(tags[tags.index(tag) :])

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)


def decoded(uri):
    head, data = uri.split(",", 1)
    assert head in ("data:image/webp;base64", "data:image/png;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))).convert("RGB")).astype(int)


def near(pixels, colour_rgb, tolerance=40):
    return np.abs(pixels - np.array(colour_rgb)).max() <= tolerance


@pytest.fixture
def places(tmp_path):
    return tmp_path / "data", tmp_path / "work"


@pytest.fixture
def labelled(places):
    """Videos 000001 (right), 000002 (declared item 000003), 000004 (left out), and plain, which shows no item."""
    root, work = places
    for number, colour in enumerate([(200, 60, 60), (60, 60, 200), (200, 200, 60), (60, 200, 200)], 1):
        item_id = f"00000{number}"
        write_photo(root, item_id, colour)
        write_labels(root, item_id, item_id if number != 3 else None)
        if number != 3:
            write_video(root, item_id)
    write_video(root, "plain")
    write_run(root, work, [("000001", "000001", 0.5), ("000003", "000002", 0.7)])
    return root, work


def test_hostile_ids_are_escaped(places):
    root, work = places
    for text in HOSTILE:
        write_photo(root, text)
        write_video(root, text)
    (root / "items.json").write_text(json.dumps([{"item_id": text, "kind": f"<b>{text}"} for text in HOSTILE]))
    write_run(root, work, [(text, text, 0.5) for text in HOSTILE[:-1]])
    page = report(root, work)
    assert set(page.cards) == set(HOSTILE)
    for text in HOSTILE[:-1]:
        assert page.cards[text]["ids"] == [text, text]
        assert page.cards[text]["words"].startswith(f"{text} <b>{text} ")
        assert f"item {text} " in page.cards[text]["words"]
    assert page.cards[HOSTILE[-1]]["ids"] == [HOSTILE[-1], ""]
    assert page.count("script") == 1 and "b" not in page.inside("article")
    assert page.count("img") == 2 * 4 + 1
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_page_needs_nothing_from_outside(labelled):
    root, work = labelled
    page = report(root, work)
    own = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", page.text)
    for address in ("http:", "https:", '"//', "@import", "url(", "fetch(", "XMLHttp", "WebSocket", "import("):
        assert address not in own
    policy = next(attributes["content"] for _, attributes in page.elements if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:; ") and "script-src 'sha256-" in policy
    assert page.count("link") == page.count("iframe") == page.count("a") == 0
    assert all(attributes["src"].startswith("data:image/") for _, attributes in page.elements if "src" in attributes)
    assert all(not {"href", "srcset", "action"} & attributes.keys() for _, attributes in page.elements)


def test_every_video_has_a_card_and_a_verdict(labelled):
    root, work = labelled
    cards = report(root, work).cards
    assert {video: card["states"] for video, card in cards.items()} == {
        "000001": ["all", "right", "match"],
        "000002": ["all", "wrong", "match"],
        "000004": ["all", "wrong", "nomatch"],
        "plain": ["all", "right", "nomatch"],
    }
    assert "distance 0.500 votes 1 of 1 kept 1 of 1 share 100%" in cards["000001"]["words"]
    assert "Declared item 000003, expected 000002. Item 000002 cast no vote" in cards["000002"]["words"]
    assert "though its item is in the catalogue. No product was detected in this video." in cards["000004"]["words"]
    assert "Rightly left out." in cards["plain"]["words"]


def test_score_is_shown_with_its_rules(labelled):
    root, work = labelled
    page = report(root, work)
    words = " ".join(page.words.split())
    # 1 of 2 declared is right, 3 are labelled: every S is 2 * 1 / (2 + 3).
    assert page.rows == [
        ["kind", "S1", "S2", "S3", "final", "labelled", "declared", "right item"],
        ["all", "0.400", "0.400", "0.400", "0.400", "3", "2", "1"],
    ]
    assert "Rules product, frame policy nearest" in words
    assert "final = 0.2 S1 + 0.6 S2 + 0.2 S3" in words


def test_pictures_have_boxes_and_the_declared_frame(labelled):
    root, work = labelled
    card = report(root, work).cards["000001"]
    photo, frame = card["pictures"]
    assert photo.shape == (400, 320, 3) and near(photo[:, :, :].mean(axis=(0, 1)), (200, 60, 60), 12)
    assert frame.shape == (96, 64, 3)  # never enlarged
    assert near(frame.mean(axis=(0, 1)), (120, 120, 120), 8)  # frame 5 is of level 20 * 6
    # 100, 200, 500, 700 of 640 x 800; 10, 20, 50, 60 of 64 x 96
    assert card["boxes"] == [{"found": [15.62, 25.0, 62.5, 62.5]}, {"found": [15.62, 20.83, 62.5, 41.67]}]


def test_wrong_video_shows_the_right_items_photo(labelled):
    root, work = labelled
    cards = report(root, work).cards
    declared, _, right = cards["000002"]["pictures"]
    assert near(declared[180, 120], (200, 200, 60), 12)
    assert near(right[180, 120], (60, 60, 200), 12)
    # Frame 5 is not labelled, so the frame has no labelled box.
    assert [list(boxes) for boxes in cards["000002"]["boxes"]] == [["found"], ["found"], ["truth"]]
    assert cards["000002"]["boxes"][2]["truth"] == [15.62, 25.0, 62.5, 62.5]
    some_frame, right = cards["000004"]["pictures"]
    assert near(some_frame[40, 30], (100, 100, 100), 8)  # frames.start=4 is labelled: level 20 * 5
    assert near(right[180, 120], (60, 200, 200), 12)
    assert [list(boxes) for boxes in cards["000004"]["boxes"]] == [["truth"], ["truth"]]
    assert len(cards["plain"]["pictures"]) == 1 and cards["plain"]["boxes"] == [{}]


def test_box_off_its_product_is_wrong_and_says_why(places):
    root, work = places
    write_photo(root, "000001")
    write_video(root, "000001")
    write_labels(root, "000001", "000001", photo_box=(100, 200, 500, 400))  # 0.4 of the declared box
    write_run(root, work, [("000001", "000001", 0.5)])
    card = report(root, work).cards["000001"]
    assert card["states"] == ["all", "wrong", "match"]
    assert "S1 ✓ S2 ✓ S3 ✗" in card["words"] and "IoU 0.40" in card["words"] and "cast" not in card["words"]
    assert card["boxes"][0] == {"found": [15.62, 25.0, 62.5, 62.5], "truth": [15.62, 25.0, 62.5, 25.0]}


def test_scores_by_kind_where_kinds_are_known(labelled):
    root, work = labelled
    kinds = {"000001": "shirt", "000002": "shirt", "000003": "hat", "000004": "hat"}
    (root / "items.json").write_text(json.dumps([{"item_id": item, "kind": kind} for item, kind in kinds.items()]))
    page = report(root, work)
    # A video's kind is that of its id; `plain` has none.
    assert page.rows[1:] == [
        ["?", "–", "–", "–", "–", "0", "0", "0"],
        ["hat", "0.000", "0.000", "0.000", "0.000", "1", "0", "0"],
        ["shirt", "0.500", "0.500", "0.500", "0.500", "2", "2", "1"],
        ["all", "0.400", "0.400", "0.400", "0.400", "3", "2", "1"],
    ]
    assert "hat" in page.cards["000004"]["words"]


def test_without_truth_there_is_no_score(places):
    root, work = places
    write_photo(root, "shoe")
    write_video(root, "clip")
    write_video(root, "other")
    write_run(root, work, [("shoe", "clip", 0.5)])
    page = report(root, work)
    assert [card["states"] for card in page.cards.values()] == [["all", "match"], ["all", "nomatch"]]
    assert not re.search(r"final|S1|✓|✗|labelled with", page.words)
    filters = [attributes["data-filter"] for _, attributes in page.elements if "data-filter" in attributes]
    assert filters == ["all", "match", "unsure", "nomatch"]


def test_videos_that_are_short_or_unreadable_have_cards(places):
    root, work = places
    write_photo(root, "shoe")
    write_video(root, "short", n_frames=2)
    (root / "video" / "broken.mp4").write_bytes(b"no video")
    write_run(root, work, [])
    cards = report(root, work).cards
    assert near(cards["short"]["pictures"][0][40, 30], (40, 40, 40), 8)  # frame 1, its last
    assert cards["broken"]["pictures"] == [] and "not a readable video" in cards["broken"]["words"]


def test_training_curves_stand_at_the_end(places):
    root, work = places
    write_photo(root, "shoe")
    write_video(root, "clip")
    write_run(root, work, [])
    assert "Training curves" not in report(root, work).words
    (work / "weights" / "detector").mkdir(parents=True)
    Image.new("RGB", (30, 20), (1, 2, 3)).save(work / "weights" / "detector" / "curves.png")
    page = report(root, work)
    assert "Training curves" in page.words
    (curve,) = (attributes for tag, attributes in page.elements if tag == "img" and "curves" in attributes["alt"])
    assert curve["alt"] == "training curves of detector" and decoded(curve["src"]).shape == (20, 30, 3)


def test_result_of_another_run_is_refused(labelled):
    root, work = labelled
    write_result({}, work / "result.json")
    with pytest.raises(UserError, match="result.json.*infer again"):
        report(root, work)


def test_other_data_is_refused(labelled):
    root, work = labelled
    write_video(root, "newcomer")
    with pytest.raises(UserError, match="newcomer.mp4"):
        report(root, work)


def test_draw_match_places_boxes_and_joins_them():
    photo = np.full((720, 960, 3), 100, np.uint8)  # by 0.5 into 360 x 480
    frame = np.full((180, 90, 3), 60, np.uint8)  # by 2 into 360 x 180
    drawn = draw_match(photo, np.array([200, 200, 600, 400]), frame, np.array([20, 40, 60, 160])).astype(int)
    assert drawn.shape == (16 + 360 + 16, 16 + 480 + 72 + 180 + 16, 3)
    # Corners on the canvas: photo 16 + (100, 100, 300, 200), frame (568, 16) + (40, 80, 120, 320).
    assert (drawn[150, [116, 315]] == BOX_RGB).all() and (drawn[[116, 215], 200] == BOX_RGB).all()
    assert (drawn[300, [608, 687]] == BOX_RGB).all() and (drawn[[96, 335], 650] == BOX_RGB).all()
    for y, x in ((150, 115), (150, 316), (115, 200), (216, 200), (300, 607), (300, 688), (95, 650), (336, 650)):
        assert (drawn[y, x] != BOX_RGB).any()  # one pixel outside
    assert (drawn[150, 200] == 100).all() and (drawn[300, 650] == 60).all()  # inside: as it was
    assert (drawn[40, 40] > 120).all() and (drawn[30, 600] > 80).all()  # outside: dimmed towards the paper
    for x in range(500, 566):  # the line crosses the gap between the pictures without a break
        assert (drawn[:, x] == BOX_RGB).all(axis=1).any()


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0, 0, 64, 96), (-5, -5, 70, 100), (63, 95, 64, 96)])
def test_draw_match_takes_boxes_at_the_edges(box):
    image = np.zeros((96, 64, 3), np.uint8)
    assert draw_match(image, np.array(box), image, np.array(box)).dtype == np.uint8


def test_picture_shows_the_three_nearest(places, tmp_path):
    root, work = places
    levels = {"a": 90, "b": 130, "c": 170, "d": 210}
    distances = {"a": 0.9, "b": 0.3, "c": 0.5, "d": 0.4}
    for item, level in levels.items():
        write_photo(root, item, (level, level, level))
        write_video(root, item)
    write_run(root, work, [(item, item, distances[item]) for item in levels])
    report(root, work, "--picture", tmp_path / "nearest.png")
    picture = np.asarray(Image.open(tmp_path / "nearest.png"))
    assert picture.shape[0] == 3 * (360 + 16) + 16
    assert [int(picture[16 + 376 * row + 200, 16 + 130, 0]) for row in range(3)] == [levels[item] for item in "bdc"]


def test_picture_without_matches_is_refused(places, tmp_path):
    root, work = places
    write_photo(root, "shoe")
    write_video(root, "clip")
    write_run(root, work, [])
    with pytest.raises(UserError, match="no video has a match"):
        report(root, work, "--picture", tmp_path / "nearest.png")


def test_further_pairs_are_on_the_card(places):
    root, work = places
    write_photo(root, "000001")
    write_video(root, "000001")
    write_run(root, work, [("000001", "000001", 0.5)], further=2)
    card = report(root, work).cards["000001"]
    assert len(card["pictures"]) == 4  # a photo for each pair, and the frame
    left, top, width, height = card["boxes"][-1]["found"]  # the last of the frame's: 10, 40 to 50, 80 of 64 x 96
    assert [left, top, width, height] == pytest.approx([15.625, 41.667, 62.5, 41.667], abs=0.01)


def test_matches_of_another_version_are_refused(places):
    root, work = places
    write_photo(root, "shoe")
    write_video(root, "clip")
    write_run(root, work, [])
    none = read_step(work / "matches").table("pairs")
    settings = load_config(CONFIG, []).match.model_dump(exclude={"pairs"})
    Step(work / "matches", settings).write({"table": none, "votes": none})
    with pytest.raises(UserError, match=r"without match\.pairs\. Run infer again"):
        report(root, work)


def test_a_lost_item_is_shown_by_a_labelled_photo(places):
    root, work = places
    for name, colour in (("0", (200, 200, 60)), ("1", (60, 60, 200))):
        write_photo(root, "000001", colour, name)
    write_video(root, "000001")
    write_labels(root, "000001", "000001")
    (root / "image_annotation" / "000001" / "0.json").rename(root / "image_annotation" / "000001" / "1.json")
    write_run(root, work, [])
    card = report(root, work).cards["000001"]
    assert near(card["pictures"][-1][300, 200], (60, 60, 200)) and "truth" in card["boxes"][-1]
