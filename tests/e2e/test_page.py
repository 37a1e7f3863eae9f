"""The page, as somebody uses it who has never seen it."""

import io
import json
import re

import pytest
from PIL import Image

NOTE_BEGINNINGS = """() => {
  window.beginnings = [];
  const left = document.querySelector('#left');
  const note = () => {
    if (left.querySelector('.more')) {
      window.beginnings.push(left.querySelector('.plain').innerText);
    }
  };
  new MutationObserver(note).observe(left, {childList: true, subtree: true});
}"""
STOP_WHILE_THEY_SPEAK = """() => {
  if (document.querySelector('#left .more') == null) return false;
  document.querySelector('#stop').click();  // at once: the mini model soon has said it all
  return true;
}"""


def opened(visit, server):
    visitor = visit()
    visitor.tab.goto(server.address)
    visitor.tab.wait_for_selector("#ask")
    return visitor.tab


def finished(tab, count=1):
    """Both sides have said so many answers whole: each ends with the count of wrong sentences."""
    for side in ("left", "right"):
        tab.wait_for_function(
            f"document.querySelectorAll('#{side} .count').length == {count}", timeout=120_000
        )


def asked(tab, question):
    tab.locator("#question textarea, #question input").fill(question)
    tab.click("#ask")


def picture_file(name="mine.png"):
    file = io.BytesIO()
    Image.effect_noise((64, 48), 60).save(file, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": file.getvalue()}


def files(server):
    return sorted(p for p in server.folder.rglob("*") if p.is_file() and p.name != "log.txt")


def test_a_question_is_answered_twice_and_a_bad_file_is_refused(visit, page_server, screenshots):
    tab = opened(visit, page_server)
    assert tab.locator("#picture img").get_attribute("alt", timeout=10_000).startswith("the pic")
    tab.click("#describe")
    finished(tab)
    for side in ("left", "right"):
        assert "The scene is a beach" in tab.locator(f"#{side}").inner_text()
    assert "✗" in tab.locator("#left").inner_text()
    tab.screenshot(path=screenshots / "page_answers.png", full_page=True)
    before = files(page_server)
    svg = {"name": "a.svg", "mimeType": "image/svg+xml", "buffer": b"<svg/>"}
    tab.set_input_files("#upload input, input[type=file]", svg)
    tab.get_by_text(re.compile("not a PNG, JPEG or WebP picture")).wait_for()
    tab.wait_for_timeout(800)  # the message fades in
    tab.screenshot(path=screenshots / "page_refused.png")
    assert files(page_server) == before


def test_the_name_of_a_picture_stands_below_it(visit, page_server):
    tab = opened(visit, page_server)
    for at in range(3):
        button = tab.locator("#shelf button:has(img)").nth(at)
        picture, name = (
            button.locator(which).bounding_box() for which in ("img", ".caption-label")
        )
        assert name["y"] >= picture["y"] + picture["height"] - 1


@pytest.mark.slow
def test_answers_are_streamed_and_stopped(visit, page_server, screenshots):
    tab = opened(visit, page_server)
    tab.evaluate(NOTE_BEGINNINGS)
    tab.click("#describe")
    finished(tab)
    beginnings = [text.removesuffix("...") for text in tab.evaluate("window.beginnings")]
    assert any(beginnings)  # it grew, it did not appear
    first = "The scene is a beach"
    assert [b for b in beginnings if not (b.startswith(first) or first.startswith(b))] == []
    tab.click("#describe")
    tab.wait_for_function(STOP_WHILE_THEY_SPEAK, polling=20)
    tab.get_by_text("(stopped)").first.wait_for()
    tab.screenshot(path=screenshots / "page_stopped.png", full_page=True)


@pytest.mark.slow
def test_a_visitors_own_picture_is_asked_about_and_leaves_no_file(visit, page_server, screenshots):
    tab = opened(visit, page_server)
    before = files(page_server)
    tab.set_input_files("#upload input, input[type=file]", picture_file())
    tab.wait_for_function("document.querySelector('#picture img').alt.includes('mine.png')")
    asked(tab, "Is there a kite in the image?")
    tab.wait_for_function(
        "/Yes|No/.test(document.querySelector('#right .plain')?.innerText ?? '')", timeout=60_000
    )
    assert files(page_server) == before
    tab.screenshot(path=screenshots / "page_upload.png", full_page=True)


@pytest.mark.slow
def test_the_keyboard_is_enough(visit, page_server):
    tab = opened(visit, page_server)
    tab.locator("#question textarea, #question input").focus()
    tab.keyboard.type("Is there an umbrella in the image?")
    tab.keyboard.press("Enter")
    finished(tab)
    for _ in range(40):  # Tab reaches the button that describes, and Enter presses it
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.closest('#describe') != null"):
            break
    tab.keyboard.press("Enter")
    finished(tab, 2)


@pytest.mark.slow
def test_two_visitors_at_once_hear_their_own_answers(visit, page_server):
    tabs = [opened(visit, page_server) for _ in range(2)]
    for tab, thing in zip(tabs, ("kite", "umbrella"), strict=True):
        asked(tab, f"Is there {'an' if thing[0] == 'u' else 'a'} {thing} in the image?")
    for tab, thing, other in zip(tabs, ("kite", "umbrella"), ("umbrella", "kite"), strict=True):
        finished(tab)
        said = tab.locator("#left .said").inner_text()
        assert thing in said
        assert other not in said


@pytest.mark.slow
def test_another_picture_sampling_and_export(visit, page_server, tmp_path):
    tab = opened(visit, page_server)
    tab.locator("#shelf button:has(img)").nth(1).click()
    tab.wait_for_function("document.querySelector('#picture img').alt.includes('kitchen 2')")
    tab.get_by_text("How they answer").click()
    tab.get_by_label(re.compile("sampled")).check()
    tab.get_by_label("Is there", exact=False).first.check()
    tab.click("#ask")
    finished(tab)
    with tab.expect_download() as download:
        tab.click("#export")
    download.value.save_as(tmp_path / "talk.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    assert [row["model"] for row in rows] == ["llava/mini, base", "llava/mini, tuned"]
    assert {row["picture"] for row in rows} == {"kitchen 2"}
    assert {row["decoding"]["name"] for row in rows} == {"sampled"}
    tab.click("#new")
    tab.wait_for_function("document.querySelector('#left .said p') == null")
