"""What is on the page, and what happens when something on it is used."""

# pyright: reportMissingImports=false
# (the extra `page` may be absent)

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
from gradio.themes import Default  # pyright: ignore[reportMissingImports]

from hadpo.generation import Decoding
from hadpo.page.shelf import ANYWHERE, DESCRIBE, Shelf, Speaker
from hadpo.page.talk import SIDES, Conversation, Exchange, Picture, rule
from hadpo.page.uploads import ENDINGS, LARGEST_BYTES, read_upload
from hadpo.records import BadInput

GREEDY, SAMPLED = "greedy", "sampled"
TEMPERATURE = 1.0  # of the demos of MiniGPT-4, LRV-Instruction and mPLUG-Owl
_WAYS = [
    ("greedy: the likeliest word each time", GREEDY),
    (f"sampled, temperature {TEMPERATURE:g}: as in the demos", SAMPLED),
]
SECONDS_BETWEEN_UPDATES = 0.05
LONGEST_QUESTION = 500
CSS = """
.asked { margin: 10px 0 2px }
.said p { padding: 3px 8px; margin: 3px 0; border-left: 4px solid transparent }
.said .true { border-left: 4px solid #0b62a8; background: #eaf3fb; color: #222 }
.said .invented { border-left: 4px double #b44a00; background: #fdebdc; color: #222 }
.said .unknown { border-left: 4px dotted #555; background: #f2f2f2; color: #222 }
.said small { color: #444 }
.said .count { font-weight: bold }
.said .note { font-style: italic }
#shelf .thumbnail-lg { display: flex; flex-direction: column; aspect-ratio: auto; height: auto }
#shelf .thumbnail-lg img { height: auto; flex: none }
#shelf .caption-label { position: static; max-width: 100%; width: 100%; border: 0 }
"""
_UPLOAD = f"""<label>Upload a picture (up to {LARGEST_BYTES // 1_000_000} MB)
<input type="file" accept="{",".join(f".{ending}" for ending in ENDINGS)}"></label>"""
# `value` is what `read_upload` reads; of a file that is too large only the name and size are sent.
_SEND = f"""element.addEventListener("change", (event) => {{
  const [file] = event.target.files;
  if (!file) return;
  const reader = new FileReader();
  reader.onload = () => {{
    props.value = JSON.stringify({{name: file.name, size: file.size, data: reader.result}});
    trigger("upload");
  }};
  reader.readAsDataURL(file.size > {LARGEST_BYTES} ? new Blob() : file);
}});"""
_SAVE = """(text) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/jsonl"}));
  link.download = "conversation.jsonl";
  link.click();
  URL.revokeObjectURL(link.href);
}"""


def theme() -> Any:
    """Plain fonts of the visitor's own machine: none is fetched; buttons whose text can be read."""
    fonts = ["system-ui", "DejaVu Sans", "sans-serif"]
    plain = Default(font=fonts, font_mono=["DejaVu Sans Mono", "monospace"])
    fills = {"primary": ("#0b5394", "#083d6d"), "cancel": ("#b3261e", "#8c1d18")}
    colours = {
        f"button_{kind}_background_fill{hover}{scheme}": colour
        for kind, pair in fills.items()
        for hover, colour in zip(("", "_hover"), pair, strict=True)
        for scheme in ("", "_dark")
    }
    return plain.set(**colours)


def build(pair: tuple[Speaker, Speaker], shelf: Shelf) -> gr.Blocks:
    """The page of two models; `shelf` has pictures to begin with, and the judge."""
    desk, exhibits = Desk(pair, shelf), shelf.exhibits
    with gr.Blocks(
        title="hadpo: two models side by side", analytics_enabled=False, delete_cache=(60, 600)
    ) as page:
        gr.Markdown(
            "# Two models, one picture\n"
            "Ask about something that is **not** there, and see who invents it. "
            + shelf.explanation
        )
        talk = gr.State(desk.new_talk(), time_to_live=3600)
        # A gr.State never reaches the browser.
        exported = gr.Textbox(visible="hidden", label="exported")
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                shown = gr.HTML(desk.first_html, elem_id="picture")
                upload = gr.HTML(html_template=_UPLOAD, js_on_load=_SEND, elem_id="upload")
                gr.Markdown("Or pick one of these:", visible=bool(exhibits))
                gallery = gr.Gallery(
                    [(e.image, e.name) for e in exhibits],
                    label="pictures to pick from",
                    show_label=False,
                    columns=3,
                    height=330,
                    allow_preview=False,
                    format="png",
                    visible=bool(exhibits),
                    interactive=False,
                    buttons=[],
                    elem_id="shelf",
                )
                with gr.Accordion("How they answer", open=False):
                    way = gr.Radio(_WAYS, value=GREEDY, label="Decoding")
                    seed = gr.Number(0, label="Seed of sampling", precision=0, minimum=0)
                    longest = gr.Slider(8, 512, 120, step=8, label="Longest answer, in tokens")
                    can_more = all(speaker.takes_more for speaker in pair)
                    name = "They remember earlier questions"
                    remember = gr.Checkbox(label=name, visible=can_more, elem_id="remember")
            with gr.Column(scale=2, min_width=420):
                begin = "Questions to begin with: most ask for what is not there"
                tricky = gr.Radio(desk.first_questions, label=begin, elem_id="tricky")
                question = gr.Textbox(
                    label="Your question",
                    placeholder="Is there a ... in the image?",
                    max_length=LONGEST_QUESTION,
                    elem_id="question",
                )
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary", elem_id="ask")
                    describe = gr.Button("Describe", elem_id="describe")
                    stop = gr.Button("Stop", variant="stop", elem_id="stop")
                with gr.Row(equal_height=False):
                    sides = []
                    for name, speaker in zip(SIDES, pair, strict=True):
                        with gr.Column(min_width=200):
                            gr.Markdown(f"### {speaker.title}")
                            sides.append(gr.HTML(elem_id=name))
                with gr.Row():
                    anew = gr.Button("New conversation", size="sm", elem_id="new")
                    export = gr.Button("Export as JSONL", size="sm", elem_id="export")
        answers: Any = [talk, *sides]
        picked: Any = [talk, shown, tricky, *sides]
        how: Any = [way, seed, longest, remember]
        # One question of a visitor at a time; four visitors' answers grow side by side.
        line: Any = dict(concurrency_limit=4, concurrency_id="answers", show_progress="hidden")
        gr.on([ask.click, question.submit], desk.ask, [talk, question, *how], answers, **line)
        describe.click(desk.describe, [talk, *how], answers, **line)
        stop.click(desk.stop, [talk], None, queue=False, show_progress="hidden")
        upload.upload(desk.upload, [talk, upload], [*picked, upload], show_progress="hidden")
        gallery.select(desk.pick, [talk], picked, show_progress="hidden")
        tricky.input(lambda text: text, [tricky], [question], queue=False)
        anew.click(desk.clear, [talk], answers, show_progress="hidden")
        ready = export.click(desk.export, [talk], [exported], show_progress="hidden")
        ready.then(None, [exported], None, js=_SAVE)
    page.queue(max_size=64)
    return page


class Desk:
    """Handles what visitors do; holds the models, and nothing that belongs to a visitor."""

    def __init__(self, pair: tuple[Speaker, Speaker], shelf: Shelf) -> None:
        self._pair = dict(zip(SIDES, pair, strict=True))
        self._take_images = all(speaker.takes_images for speaker in pair)
        self._shelf, exhibits = shelf, shelf.exhibits
        self._judging = threading.Lock()  # one at a time: the limit of what it costs is for all
        self._pictures = [Picture(e.name, e.image, e.evidence) for e in exhibits]
        self.first_questions = list(exhibits[0].questions if exhibits else ANYWHERE)
        self.first_html = self._pictures[0].to_html() if exhibits else "No picture yet."

    def new_talk(self) -> Conversation:
        """What a visitor begins with."""
        return Conversation(self._pictures[0] if self._pictures else None)

    def ask(
        self,
        talk: Conversation,
        question: str | None,
        way: str,
        seed: float,
        longest: float,
        remember: bool,
    ) -> Iterator[Any]:
        """Both answers, growing side by side."""
        question = (question or "").strip()[:LONGEST_QUESTION]
        if not question:
            raise gr.Error("Type a question first, or choose one.", print_exception=False)
        if talk.picture is None:
            raise gr.Error("Upload or pick a picture first.", print_exception=False)
        last = talk.exchanges[-1].picture if talk.exchanges else None
        is_new = talk.picture is not last  # another image is more than most prompts have room for
        decoding = Decoding(
            name=way,
            temperature=TEMPERATURE if way == SAMPLED else 0.0,
            seed=int(seed or 0),
            max_new_tokens=int(longest),
        )
        remembers = bool(remember and last and (not is_new or self._take_images))
        exchange = Exchange(talk.picture, question, decoding, remembers=remembers)
        talk.is_stopped = False
        talk.exchanges.append(exchange)
        try:
            yield from self._answers(talk, exchange)
        except BadInput as error:
            talk.exchanges.remove(exchange)
            raise gr.Error(f"{error}.", print_exception=False) from error

    def _answers(self, talk: Conversation, exchange: Exchange) -> Iterator[Any]:
        """One token of each side in turn, until both are done or the visitor stops them."""
        how = exchange.decoding
        speaking = {s: speaker.answer(talk.turns(s), how) for s, speaker in self._pair.items()}
        shown_at = 0.0
        with contextlib.ExitStack() as stack:
            for steps in speaking.values():
                stack.enter_context(contextlib.closing(steps))  # pyright: ignore[reportArgumentType]
            stack.callback(exchange.stop)  # also if the visitor leaves in the middle
            while speaking and not talk.is_stopped:
                for side, steps in list(speaking.items()):
                    step = next(steps, None)
                    if step is None:
                        del speaking[side]
                        if exchange.finish[side] == "running":
                            exchange.finish[side] = "length"
                        continue
                    exchange.answers[side], is_over = step
                    if is_over:
                        exchange.finish[side] = "stop"
                        del speaking[side]
                if time.monotonic() - shown_at > SECONDS_BETWEEN_UPDATES:
                    shown_at = time.monotonic()
                    yield self._outputs(talk)
        exchange.unjudged |= dict.fromkeys(SIDES, "the judge is still reading")
        yield self._outputs(talk)
        for side in SIDES:
            del exchange.unjudged[side]
            with self._judging:
                rule(exchange, side, self._shelf.judge, self._shelf.words)
            yield self._outputs(talk)

    def describe(self, talk: Conversation, *how: Any) -> Iterator[Any]:
        """Ask for a description."""
        yield from self.ask(talk, DESCRIBE, *how)

    def stop(self, talk: Conversation) -> None:
        """End the answers that are being generated."""
        talk.is_stopped = True

    def clear(self, talk: Conversation) -> Any:
        """Begin a new conversation about the same picture."""
        talk.is_stopped = True
        return self._outputs(Conversation(talk.picture))

    def pick(self, talk: Conversation, choice: gr.SelectData) -> Any:
        """Show a picture of the gallery."""
        place = choice.index
        if not isinstance(place, int) or not 0 <= place < len(self._pictures):
            raise gr.Error("There is no such picture.", print_exception=False)
        return self._show(talk, self._pictures[place], self._shelf.exhibits[place].questions)

    def upload(self, talk: Conversation, sent: str) -> Any:
        """Show a visitor's picture."""
        try:
            picture = Picture(*read_upload(sent))
        except BadInput as error:
            raise gr.Error(str(error), print_exception=False) from error
        return (*self._show(talk, picture, ANYWHERE), None)

    def export(self, talk: Conversation) -> str:
        """The conversation as JSON lines, which the browser saves."""
        if not talk.exchanges:
            raise gr.Error("There is nothing to export yet.", print_exception=False)
        return talk.to_jsonl({side: speaker.title for side, speaker in self._pair.items()})

    def _show(self, talk: Conversation, picture: Picture, questions: Sequence[str]) -> Any:
        """From now on, questions are about this picture."""
        talk.picture = picture
        choices = gr.Radio(list(questions), value=None)
        return talk, picture.to_html(), choices, *self._outputs(talk)[1:]

    def _outputs(self, talk: Conversation) -> tuple[Any, ...]:
        return talk, *(talk.to_html(side) for side in SIDES)
