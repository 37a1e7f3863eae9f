"""CC-SBU-Align, the captions that MiniGPT-4's auxiliary loss learns from.

Layout: `filter_cap.json` with `annotations`, a list of image_id and caption; photos are
`image/<id>.jpg`.
"""

from pathlib import Path

from hadpo.data import Report, field, inside, missing_images, read_json, said
from hadpo.records import BadInput, Instruction

_EXPECTED = (
    "expected filter_cap.json: an object whose 'annotations' are a list of image_id and caption"
)


def read(folder: Path, report: Report) -> list[Instruction]:
    """The captions in file order (the original never reaches the last one; we do).

    Their `instruction` is empty: the backbone draws one of its own requests.

    Raises:
        BadInput: the file cannot be read as a whole.
    """
    path = folder / "filter_cap.json"
    records = field(read_json(path, dict, expected=_EXPECTED), "annotations", list, where=str(path))
    found: list[tuple[str, Instruction]] = []
    for number, record in enumerate(records):
        where = f"{path}: record {number}"
        try:
            if not isinstance(record, dict):
                raise BadInput(f"{where}: expected an object, found {type(record).__name__}")
            key = str(field(record, "image_id", (int, str), where=where))  # a number or a name
            image = inside(folder / "image", f"{key}.jpg", where=where)
            text = said(record, "caption", where=where)
        except BadInput as error:
            report.bad(str(error), source="cc_sbu_align")
            continue
        caption = Instruction(
            instruction_id=f"cc_sbu_align-{number}",
            image_id=key,
            image=str(image),
            instruction="",
            answer=text,
            kind="caption",
            source=path.name,
        )
        found.append((where, caption))
    places = ((where, caption.image) for where, caption in found)
    missing = missing_images(places, report, source="cc_sbu_align")
    return [caption for _, caption in found if caption.image not in missing]
