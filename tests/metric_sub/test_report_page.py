"""The report page in a browser: headless Chromium clicks its filters and presses its keys, and says what it then shows."""

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess

import pytest

from shared.config import Calibration
from tests.metric_sub.test_report import report, write_labels, write_photo, write_run, write_video

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: expected chromium or google-chrome on the PATH")

KINDS = {"000001": "shirt", "000002": "shirt", "000004": "hat", "000005": "hat"}
ALL = ["000001", "000002", "000004", "000005", "plain"]
RIGHT, WRONG = ["000001", "000005", "plain"], ["000002", "000004"]
UNSURE, NO_MATCH = ["000002", "000005"], ["000004", "plain"]

HELPERS = """
const seen = {};
const ids = () => [...document.querySelectorAll(".card")].filter(card => card.offsetParent).map(card => card.dataset.ids.split("\\n")[0]);
const key = (name, more) => (document.activeElement || document.body).dispatchEvent(
  new KeyboardEvent("keydown", {key: name, bubbles: true, cancelable: true, ...more}));
const click = selector => document.querySelector(selector).click();
const put = (selector, value) => {
  const field = document.querySelector(selector);
  field.value = value;
  field.dispatchEvent(new Event(field.matches("select") ? "change" : "input", {bubbles: true}));
};
const at = () => {
  const marked = [...document.querySelectorAll("[aria-current]")].map(card => card.dataset.ids.split("\\n")[0]);
  const focused = document.activeElement.matches(".card") ? document.activeElement.dataset.ids.split("\\n")[0] : null;
  return [marked.join(" "), focused, document.querySelector("#position").textContent];
};
const tell = () => parent.postMessage(JSON.stringify(seen), "*");
window.onerror = message => { seen.error = message; tell(); };
"""
FRAME = """<!DOCTYPE html><iframe src="{source}" style="border: 0; width: {width}px; height: 800px"></iframe><pre id="seen"></pre>
<script>addEventListener("message", event => {{ document.querySelector("#seen").textContent = event.data; }})</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """000001 right, 000002 wrong, 000004 left out, 000005 right, plain rightly left out; 000002 and 000005 unsure."""
    folder = tmp_path_factory.mktemp("page")
    root, work = folder / "data", folder / "work"
    for number in range(1, 6):
        item_id = f"00000{number}"
        write_photo(root, item_id)
        write_labels(root, item_id, item_id if number != 3 else None)
        if number != 3:
            write_video(root, item_id)
    write_video(root, "plain")
    (root / "items.json").write_text(json.dumps([{"item_id": item, "kind": kind} for item, kind in KINDS.items()]))
    pairs = [("000001", "000001", 0.5), ("000003", "000002", 0.7), ("000005", "000005", 0.62)]
    write_run(root, work, pairs, calibration=Calibration(intercept=8.0, slope=-11.0))  # 0.92, 0.57, 0.77
    return report(root, work).text


@pytest.fixture
def drive(page, tmp_path):
    """Opens the page at `fragment`, runs `script` in it, and gives the object `seen` that it filled."""

    def run(script, fragment="", width=1200):
        driver = f"(() => {{\n{HELPERS}\n{script}\ntell();\n}})();"
        mark = base64.b64encode(hashlib.sha256(driver.encode()).digest()).decode()
        text = page.replace("script-src ", f"script-src 'sha256-{mark}' ", 1)
        text = text.replace("</body>", f"<script>document.title = 'not ours'</script><script>{driver}</script></body>")
        (tmp_path / "report.html").write_text(text, encoding="utf-8")
        frame = FRAME.format(source=html.escape(f"report.html{fragment}"), width=width)
        (tmp_path / "frame.html").write_text(frame, encoding="utf-8")
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command += ["--window-size=1300,900", "--virtual-time-budget=5000", "--hide-scrollbars", "--dump-dom"]
        done = subprocess.run(
            [*command, (tmp_path / "frame.html").as_uri()], capture_output=True, encoding="utf-8", timeout=120
        )
        told = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
        assert told and told[1], done.stderr[-2000:]
        seen = json.loads(html.unescape(told[1]))
        assert "error" not in seen, seen
        return seen

    return run


def test_filters_by_click_and_by_number(drive):
    seen = drive("""
        const state = () => [ids(), [...document.querySelectorAll("[aria-pressed=true]")].map(chip => chip.dataset.filter)];
        seen.first = state();
        for (const name of ["right", "wrong", "unsure", "nomatch", "all"]) { click(`[data-filter=${name}]`); seen[name] = state(); }
        seen.keys = ["2", "3", "4", "5", "1", "6"].map(name => { key(name); return ids(); });
        seen.counts = [...document.querySelectorAll("[data-filter]")].map(chip => chip.textContent.trim());
    """)
    assert seen["first"] == seen["all"] == [ALL, ["all"]]
    assert seen["right"] == [RIGHT, ["right"]] and seen["wrong"] == [WRONG, ["wrong"]]
    assert seen["unsure"] == [UNSURE, ["unsure"]] and seen["nomatch"] == [NO_MATCH, ["nomatch"]]
    assert seen["keys"] == [RIGHT, WRONG, UNSURE, NO_MATCH, ALL, ALL]
    assert seen["counts"] == ["all 5", "right 3", "wrong 2", "unsure 2", "no match 2"]


def test_search_kind_and_order(drive):
    seen = drive("""
        const none = () => !document.querySelector("#none").hidden;
        put("input[type=search]", " 000003 "); seen.item = ids();
        put("input[type=search]", "PLAIN"); seen.video = ids();
        put("input[type=search]", "00000"); put("#kind", "=hat"); seen.hats = ids();
        click("[data-filter=wrong]"); seen.wrongHats = [ids(), none()];
        put("input[type=search]", "nothing"); seen.nothing = [ids(), none()];
        put("input[type=search]", ""); click("[data-filter=all]"); put("#kind", "="); seen.noKind = ids();
        put("#kind", "any");
        for (const order of ["near", "far", "probability", "id"]) { put("#sort", order); seen[order] = ids(); }
    """)
    assert seen["item"] == ["000002"] and seen["video"] == ["plain"]
    assert seen["hats"] == ["000004", "000005"]
    assert seen["wrongHats"] == [["000004"], False] and seen["nothing"] == [[], True]
    assert seen["noKind"] == ["plain"]
    assert seen["near"] == ["000001", "000005", "000002", "000004", "plain"]  # videos without a match come last
    assert seen["far"] == seen["probability"] == ["000002", "000005", "000001", "000004", "plain"]
    assert seen["id"] == ALL


def test_next_and_previous(drive):
    seen = drive("""
        seen.none = at();
        seen.steps = ["j", "ArrowRight", "k", "ArrowLeft", "ArrowLeft"].map(name => { key(name); return at(); });
        key("3"); seen.hidden = at();
        seen.wrong = ["j", "j", "j"].map(name => { key(name); return at(); });
        click("#previous"); seen.button = at()[0]; click("#next"); seen.next = at()[0];
        key("j", {ctrlKey: true}); key("k", {metaKey: true}); key("k", {altKey: true}); seen.others = at()[0];
        put("input[type=search]", "nothing"); key("j"); seen.empty = at();
        put("input[type=search]", ""); click(".card:not([hidden]) figure"); seen.clicked = at()[0];
    """)
    assert seen["none"] == ["", None, "5 videos"]
    assert seen["steps"] == [
        ["000001", "000001", "1 of 5"],
        ["000002", "000002", "2 of 5"],
        ["000001", "000001", "1 of 5"],
        ["000001", "000001", "1 of 5"],  # it stops at the ends
        ["000001", "000001", "1 of 5"],
    ]
    assert seen["hidden"][0] == "" and seen["hidden"][2] == "2 videos"
    assert [place[0] for place in seen["wrong"]] == ["000002", "000004", "000004"]
    assert seen["wrong"][1] == ["000004", "000004", "2 of 2"]
    assert seen["button"] == "000002" and seen["next"] == seen["others"] == "000004"
    assert seen["empty"][0] == "" and seen["empty"][2] == "0 videos" and seen["clicked"] == "000002"


def test_search_by_key_takes_keys_for_itself(drive):
    seen = drive("""
        const search = document.querySelector("input[type=search]");
        key("3"); key("/"); seen.focused = document.activeElement === search;
        for (const name of ["j", "2", "?", "ArrowRight", "/"]) key(name);
        seen.still = [ids(), at()[0], document.querySelector("#keys").open, document.activeElement === search];
        put("input[type=search]", "000004"); seen.found = ids();
        key("Escape"); seen.left = [ids(), search.value, document.activeElement === search];
        document.querySelector("#kind").focus(); key("j"); seen.select = at()[0]; document.activeElement.blur();
        put("#kind", "=hat"); key("Escape"); seen.all = [ids(), document.querySelector("#kind").value];
    """)
    assert seen["focused"] is True
    assert seen["still"] == [WRONG, "", False, True]
    assert seen["found"] == ["000004"] and seen["left"] == [WRONG, "", False]
    assert seen["select"] == "" and seen["all"] == [ALL, "any"]


def test_keys_are_shown(drive):
    seen = drive("""
        const keys = document.querySelector("#keys");
        key("?"); seen.open = [keys.open, keys.textContent.replace(/\\s+/g, " ")];
        key("j"); key("3"); seen.still = [ids(), at()[0]];
        key("Escape"); seen.closed = keys.open;
        click("#help"); key("?"); seen.again = keys.open; click("#help"); click("#keys button"); seen.button = keys.open;
    """)
    assert seen["open"][0] is True and "j →next video" in seen["open"][1] and "5no match" in seen["open"][1]
    assert seen["still"] == [ALL, ""]
    assert (seen["closed"], seen["again"], seen["button"]) == (False, False, False)


def test_address_holds_the_view(drive):
    seen = drive("""
        seen.plain = location.hash;
        key("3"); put("#kind", "=shirt"); put("#sort", "far"); put("input[type=search]", "0000"); key("j");
        seen.view = [...new URLSearchParams(location.hash.slice(1))];
        key("Escape"); put("#sort", "id"); seen.cleared = location.hash;
    """)
    assert seen["plain"] == ""
    assert seen["view"] == [["show", "wrong"], ["kind", "shirt"], ["find", "0000"], ["sort", "far"], ["at", "000002"]]
    assert seen["cleared"] == "#at=000002"  # it stays at its video
    look = "seen.now = [ids(), at(), document.querySelector('#kind').value, document.querySelector('#sort').value];"
    assert drive(look, "#show=wrong&kind=hat&sort=near&find=00&at=000004")["now"] == [
        ["000004"],
        ["000004", "000004", "1 of 1"],
        "=hat",
        "near",
    ]
    strange = "#show=<b>&kind=toString&sort=constructor&at='\"\\"
    assert drive(look, strange)["now"] == [ALL, ["", None, "5 videos"], "any", "id"]


def test_nothing_is_asked_for_and_no_other_script_runs(drive):
    seen = drive("""
        seen.asked = performance.getEntriesByType("resource").map(entry => entry.name).filter(name => !name.startsWith("data:"));
        seen.title = document.title;
        seen.bar = !document.querySelector(".bar").hidden;
        seen.drawn = [...document.querySelectorAll(".chart svg, .votes svg")].every(svg => svg.getBBox().width > 50);
        seen.charts = [...document.querySelectorAll(".chart figcaption b")].map(title => title.textContent);
        seen.boxes = [...document.querySelectorAll(".card i.box")].map(box => getComputedStyle(box).borderTopWidth);
    """)
    assert seen["asked"] == [] and seen["title"].endswith("vid2shop report") and seen["bar"]
    assert seen["drawn"] and seen["charts"] == ["Distances", "Precision and recall", "Probability"]
    assert seen["boxes"] == ["2px"] * len(seen["boxes"]) and seen["boxes"]


@pytest.mark.parametrize("width", [360, 390, 800])
def test_page_is_as_wide_as_the_screen(drive, width):
    seen = drive(
        """
        seen.wide = [innerWidth, document.documentElement.scrollWidth];
        seen.cards = [...document.querySelectorAll(".card")].map(card => card.getBoundingClientRect().right);
        seen.buttons = [...document.querySelectorAll(".chips button")].map(button => button.offsetHeight);
        """,
        width=width,
    )
    assert seen["wide"] == [width, width]
    assert max(seen["cards"]) <= width
    assert width > 640 or min(seen["buttons"]) >= 40  # large enough for a finger


def test_without_script_every_card_is_shown(page):
    bar = re.search(r"<nav [^>]*>", page)[0]
    cards = re.findall(r"<article [^>]*>", page)
    assert bar.endswith(" hidden>") and len(cards) == 5 and not any("hidden" in card for card in cards)
