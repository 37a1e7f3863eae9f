"""Pictures and a system message in a request: what a server is sent, what the cache knows."""

import base64
import dataclasses
import io
from pathlib import Path

import pytest
from PIL import Image

from hadpo.chat import Cache, ChatModel, ChatSettings, Request
from hadpo.judges import JudgeSettings, Rubric
from hadpo.judges import llm as llm_judge
from hadpo.records import Case, Evidence, Verdict

SETTINGS = ChatSettings(model="judge", retries=0, timeout_seconds=5, max_tokens=50)


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def request(*images: Path, **more):
    return Request(name="n", text="What is it?", prompt_version="1", images=images, **more)


def ask(given):
    return ChatModel(SETTINGS, Cache(None)).ask([given])


def test_a_picture_is_sent_byte_for_byte_behind_the_system_message(serve, photo):
    server = serve(lambda *_: "a wall")
    assert ask(request(photo, system="Be short.")).replies["n"].text == "a wall"
    url = "data:image/png;base64," + base64.b64encode(photo.read_bytes()).decode()
    assert server.log[0]["body"]["messages"] == [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "text", "text": "What is it?"},
            ],
        },
    ]


def test_a_picture_on_its_side_is_sent_upright(serve, tmp_path):
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise to view
    image.save(tmp_path / "side.png", exif=exif)
    server = serve(lambda *_: "yes")
    ask(request(tmp_path / "side.png"))
    url = server.log[0]["body"]["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as sent:
        assert (sent.format, sent.size, sent.getpixel((1, 0))) == ("PNG", (2, 4), (255, 255, 255))


def test_the_cache_knows_system_message_and_pixels(photo):
    plain = request().key(SETTINGS)
    # as before requests could have pictures: nothing that was paid for is asked again
    assert plain == "c32dd82251683a0fa10142cd51c9dac7b02b2364d9ac9b9fe22cfff15d800d2f"
    seen = request(photo).key(SETTINGS)
    assert len({plain, seen, request(system="").key(SETTINGS)}) == 3
    Image.new("RGB", (40, 30), "blue").save(photo)
    assert request(photo).key(SETTINGS) != seen


@pytest.mark.parametrize("kind", ["absent", "text", "deep"])
def test_a_picture_that_cannot_be_shown_costs_its_own_request_alone(serve, tmp_path, kind):
    path = tmp_path / "x.png"
    if kind == "text":
        path.write_text("no picture")
    if kind == "deep":
        Image.new("I;16", (4, 4)).save(path)
    server = serve(lambda *_: "yes")
    good = Request(name="good", text="Yes?", prompt_version="1")
    outcome = ChatModel(SETTINGS, Cache(None)).ask([request(path), good])
    assert outcome.without.keys() == {"n"}
    assert "x.png" in outcome.without["n"]
    assert outcome.replies["good"].text == "yes"
    assert server.times_asked == {"Yes?": 1}


def test_a_rubric_may_show_the_picture_and_have_a_system_message(serve, photo):
    def read(reply, case):
        return [Verdict(case_id=case.case_id, model=case.model, claim=case.claims[0], label=reply)]

    rubric = Rubric(
        name="seen",
        read=read,
        prompt="Is it so? {claims}",
        system="You are shown a picture.",
        images=lambda case: (Path(case.evidence.image),),
    )
    evidence = Evidence(image_id="1", image=str(photo), width=40, height=30)
    case = Case(case_id="c", model="m", claims=("A wall.",), evidence=evidence, rubric="seen")
    server = serve(lambda *_: "correct")
    chat = dataclasses.replace(SETTINGS, reply_format="text")
    judge = llm_judge.make(vocabulary=None, settings=JudgeSettings(chat=chat, rubrics=(rubric,)))
    assert [v.label for v in judge.rule(case)] == ["correct"]
    [system, user] = server.log[0]["body"]["messages"]
    assert system["content"] == "You are shown a picture."
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
