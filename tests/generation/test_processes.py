"""Two processes share the images; what they write is merged by question, and nothing is lost."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from PIL import Image

from hadpo.generation import Decoding, Job, Part, generate, generate_in_processes
from hadpo.generation.processes import JOB, answered, main, own_questions, place_of_process
from hadpo.records import BadInput, Question, parse

GREEDY = Decoding(name="pope", max_new_tokens=6)
BEAMS = Decoding(name="shr", max_new_tokens=8, beams=2)
CPU = {"backbone": "llava/mini", "dtype": "float32", "device": "cpu"}


@pytest.fixture
def job(tmp_path, tiny_files):
    questions = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (30, 20 + number), (50 * number, 90, 255 - 50 * number)).save(path)
        for place, text in enumerate(["Is there a dog in the image?", "Describe this image."]):
            questions.append(
                Question(
                    question_id=f"{number}-{place}",
                    benchmark=("pope", "shr")[place],
                    split="all",
                    image_id=str(number),
                    image=str(path),
                    text=text,
                )
            )
    files = {part: str(place) for part, place in tiny_files.items()}
    parts = tuple(
        Part(decoding=decoding, questions=tuple(q for q in questions if q.benchmark == name))
        for name, decoding in (("pope", GREEDY), ("shr", BEAMS))
    )
    return Job(model="base", settings=CPU, files=files, parts=parts)


def alone(job, tiny_llava):
    backbone = tiny_llava()
    return [a for p in job.parts for a in generate(backbone, p.questions, p.decoding, model="base")]


def test_every_image_belongs_to_one_process(job):
    shares = [own_questions(job, rank, 2) for rank in range(2)]
    images = [{q.image for part in share for q in part} for share in shares]
    assert [len(each) for each in images] == [3, 2]
    assert not images[0] & images[1]
    ids = [q.question_id for share in shares for part in share for q in part]
    assert sorted(ids) == sorted(q.question_id for p in job.parts for q in p.questions)
    assert parse(json.loads(json.dumps(_plain(job))), Job, where="job") == job


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 1)),
        ({"RANK": "5", "WORLD_SIZE": "16", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (5, 16)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "64"}, (3, 64)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "12",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_COUNT": "8",
            },
            (2, 8),
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_COUNT": "2",
                "SLURM_PROCID": "3",
                "SLURM_NTASKS": "4",
            },
            (7, 8),
        ),
    ],
)
def test_every_launcher_says_which_process_this_is(environment, place):
    assert place_of_process(environment) == place


def test_shares_are_the_same_whatever_the_order_of_the_questions(job):
    turned = replace(job, parts=tuple(replace(p, questions=p.questions[::-1]) for p in job.parts))
    for rank in range(3):
        mine, other = (
            {q.image for p in own_questions(j, rank, 3) for q in p} for j in (job, turned)
        )
        assert mine == other


def test_processes_that_others_start_are_waited_for(job, tmp_path, monkeypatch, tiny_llava):
    """The stage writes the job and waits; the workers may be started before it."""
    folder = tmp_path / "job"
    with ThreadPoolExecutor() as pool:
        monkeypatch.setenv("SLURM_NTASKS", "2")
        monkeypatch.setenv("SLURM_PROCID", "1")
        first = pool.submit(main, [str(folder)])
        found = pool.submit(generate_in_processes, job, folder, 0)
        first.result(timeout=60)
        assert not found.done()
        monkeypatch.setenv("SLURM_PROCID", "0")
        main([str(folder)])
        assert found.result(timeout=60) == alone(job, tiny_llava)


def _plain(job):
    from dataclasses import asdict

    return asdict(job)


def test_a_share_goes_on_where_it_was_killed(job, tmp_path, monkeypatch, tiny_llava):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / JOB).write_text(json.dumps(_plain(job)))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    main([str(folder)])
    first = (folder / "answers-0.jsonl").read_bytes()
    lines = first.splitlines(keepends=True)
    assert len(lines) == 6
    (folder / "answers-0.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:20])
    monkeypatch.setenv("WORLD_SIZE", "1")  # and with another number of processes
    main([str(folder)])
    found = {a.question_id: a for a in answered(folder)}
    assert found == {a.question_id: a for a in alone(job, tiny_llava)}
    assert len((folder / "answers-0.jsonl").read_bytes().splitlines()) == 10


@pytest.mark.slow
def test_two_processes_answer_as_one(job, tmp_path, tiny_llava):
    found = generate_in_processes(job, tmp_path / "job", 2)
    assert found == alone(job, tiny_llava)
    files = sorted(p.name for p in (tmp_path / "job").glob("answers-*.jsonl"))
    assert files == ["answers-0.jsonl", "answers-1.jsonl"]
    (tmp_path / "0.png").unlink()
    with pytest.raises(BadInput, match=r"1 image files are missing: .*0\.png"):
        generate_in_processes(job, tmp_path / "again", 2)
