"""The server by its answers: what a model reads, without loss, and a problem that a person understands for all else."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.testclient import TestClient

import broken
import dicoms
from fakes import FakeMethod, shrunk
from medlip.about import DISCLAIMER
from medlip.app.reader import Reader
from medlip.app.server.application import make_app
from medlip.app.server.batching import Batcher, Looked, Wanted
from medlip.app.server.examples import open_examples
from medlip.app.server.guard import require_token
from medlip.app.server.limits import Limits
from medlip.app.server.problems import ProblemError
from medlip.app.server.viewer_files import ViewerFiles
from medlip.concepts import default_vocabulary
from medlip.errors import MedLIPError
from medlip.evaluation.calibration import Appearance, Calibration, OperatingPoint
from medlip.images import XRay, read_deep, read_xray
from medlip.images.frontal import appearance
from medlip.images.preprocessing import Preprocessing
from medlip.methods import build_method, save_method
from medlip.phantom import phantom
from medlip.training.load import CALIBRATION

HOME = "http://127.0.0.1:8000"
REPORT = "FINDINGS: Small left effusion.\nNo pneumothorax. Possible pneumonia at the right base."
TOKEN = "a-token-that-nobody-guesses"


def small(method: str) -> Reader:
    """A model with random weights."""
    made = build_method(shrunk({"name": method, "seed": 1}), default_vocabulary(), Preprocessing(size=64))
    return Reader(made)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return small("medslip")


@pytest.fixture(scope="module")
def client(reader: Reader) -> Iterator[TestClient]:
    with TestClient(make_app([reader]), HOME) as client:
        yield client


@pytest.fixture(scope="module")
def png() -> bytes:
    return broken.encoded("PNG")


def calibrated(folder: Path, film: NDArray[np.uint8]) -> Reader:
    """A model with random weights, from a run that was calibrated on images that look as this one does."""
    method = small("medslip").method
    middle = appearance(film)
    usual = Appearance(middle=tuple(middle), precision=tuple(map(tuple, np.eye(len(middle)))), limit=1.0)
    save_method(method, folder / "model.safetensors")
    Calibration(
        model=method.fingerprint,
        data="",
        sources=("phantom",),
        split="val",
        images=100,
        patients=100,
        truth="labels",
        rule="",
        at=OperatingPoint(measure="specificity", value=0.9),
        findings={},
        appearance=usual,
        versions={},
        notes=(),
        disclaimer=DISCLAIMER,
    ).save(folder / CALIBRATION)
    return Reader.open(folder, "cpu")


def png_of(pixels: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def upload(content: bytes) -> dict[str, Any]:
    return {"file": ("Mustermann, Erika.png", content, "image/png")}


def numbers(heat_map: dict[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(b64decode(heat_map["data"]), "<f4").reshape(heat_map["height"], heat_map["width"])


def require_problem(response: Any, *statuses: int) -> dict[str, Any]:
    """Check that a response is a problem that tells a person what is wrong, and nobody who was seen."""
    assert response.status_code in (statuses or range(400, 500)), response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code and problem["disclaimer"] == DISCLAIMER
    assert (problem["title"] and problem["detail"][0].isupper()) or problem["detail"].partition(":")[0].islower()
    assert not re.search(r"Mustermann|Erika|4711|Traceback|\.py\b|unexpected", response.text)
    return dict(problem)


# --- what is read ---


def test_a_model_reads_by_http_as_it_does_by_call(client: TestClient, reader: Reader, png: bytes) -> None:
    ask = ["pneumonia", "a rounded opacity at the right base"]
    answer = client.post("/v1/read", files=upload(png), data={"ask": ask}).json()
    reading = reader.read(png, ask)
    told = json.loads(reading.to_json())
    same = told.keys() - {"findings", "asked", "calibrated"}
    assert {key: answer[key] for key in same} == {key: told[key] for key in same}
    probabilities = {finding["pathology"]: finding["probability"] for finding in answer["findings"]}
    assert probabilities == pytest.approx({one.pathology: one.probability for one in reading.findings}, abs=1e-5)
    assert [one["text"] for one in answer["asked"]] == ask
    assert [one["probability"] for one in answer["asked"]] == pytest.approx([one.probability for one in reading.asked])
    assert (answer["height"], answer["width"]) == reading.pixels.shape
    matrix, table = answer["matrix"], reading.matrix()
    assert (matrix["anatomies"], matrix["pathologies"]) == (list(table.index), list(table.columns))
    assert np.array(matrix["probabilities"]) == pytest.approx(table.to_numpy().T, abs=1e-5)
    assert answer["calibrated"] is False and answer["thresholds"].keys() == probabilities.keys()


@pytest.mark.long
def test_doubts_are_those_of_the_reading_by_the_files_own_pixels_and_by_the_calibration(tmp_path: Path) -> None:
    film, other = (phantom(index, seed=901).views[0].image for index in range(2))
    reader = calibrated(tmp_path, film)
    noise = np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8)
    images = [film, film[::-1, ::-1], np.pad(other, 260), noise]
    with TestClient(make_app([reader]), HOME) as client:
        answers = [client.post("/v1/read", files=upload(png_of(image))).json() for image in images]
    told = [answer["doubts"] for answer in answers]
    assert told == [list(reader.read(png_of(image)).doubts) for image in images]
    usual, turned, collimated, unlike = ("; ".join(doubts) for doubts in told)
    assert usual == "" and "upside down" in turned and "collimated" in collimated
    assert "unlike the images that the model was calibrated on" in unlike


def test_maps_are_the_models_own_numbers(client: TestClient, reader: Reader, png: bytes) -> None:
    fields = {"ask": ["something round"], "maps": ["effusion", "all"]}
    answer = client.post("/v1/read", files=upload(png), data=fields).json()
    texts = [*(finding["pathology"] for finding in answer["findings"]), "something round"]
    assert sorted(answer["maps"]) == sorted(texts)
    for text, values in zip(texts, reader.read(png, "something round").maps(texts), strict=True):
        assert numbers(answer["maps"][text]) == pytest.approx(values, abs=1e-5)
        assert answer["maps"][text]["absolute"] is True


def test_maps_come_on_request_alone_and_of_any_text(client: TestClient, png: bytes) -> None:
    assert client.post("/v1/read", files=upload(png)).json()["maps"] == {}
    answer = client.post("/v1/read", files=upload(png), data={"maps": ["none", "a text"]}).json()
    assert list(answer["maps"]) == ["a text"] == [one["text"] for one in answer["asked"]]


def test_questions_alone_get_short_answers(client: TestClient, png: bytes) -> None:
    answer = client.post("/v1/ask", files=upload(png), data={"ask": ["pneumonia"], "maps": ["all"]}).json()
    assert list(answer["maps"]) == ["pneumonia"] and "findings" not in answer
    assert answer["disclaimer"] == DISCLAIMER


def test_several_models_read_by_id_or_hash(png: bytes, reader: Reader) -> None:
    readers = [reader, Reader(FakeMethod())]
    with TestClient(make_app(readers), HOME) as client:
        models = client.get("/v1/models").json()
        assert [model["id"] for model in models["models"]] == ["medslip", "fake"] and models["default"] == "medslip"
        for model in models["models"]:
            for name in (model["id"], model["hash"]):
                answer = client.post("/v1/read", files=upload(png), data={"model": name}).json()
                assert answer["model"]["hash"] == model["hash"]
                assert (answer["matrix"] is None) == (answer["places_above"] is None) == (not model["can"]["places"])
        require_problem(client.post("/v1/read", files=upload(png), data={"model": "another"}), 404)


def test_pixels_come_at_the_depth_of_the_file_and_look_as_they_are_read(client: TestClient) -> None:
    stored = dicoms.chest(12)
    content = dicoms.encoded(dicoms.dataset(stored, BitsStored=12, WindowCenter=1500, WindowWidth=900))
    response = client.post("/v1/pixels", files=upload(content))
    headers = response.headers
    values = np.frombuffer(response.content, "<u2").reshape(int(headers["x-image-height"]), int(headers["x-image-width"]))
    assert np.array_equal(values, stored) and headers["x-image-bits"] == "12"
    unit = (values - float(headers["x-window-center"])) / float(headers["x-window-width"]) + 0.5
    assert unit.clip(0, 1) * 255 == pytest.approx(read_xray(content).pixels, abs=0.51)
    assert headers["x-disclaimer"] == DISCLAIMER


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"WindowCenter": 2000, "WindowWidth": 700},
        {"WindowCenter": 2000, "WindowWidth": 700, "PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": -4000, "WindowWidth": 3000, "RescaleSlope": -2.5, "RescaleIntercept": 100},
        {"PatientOrientation": ["R", "H"], "VOILUTFunction": "LINEAR_EXACT", "WindowCenter": 900, "WindowWidth": 500},
        {"PixelPaddingValue": 0, "PresentationLUTShape": "INVERSE"},
    ],
)
def test_deep_pixels_are_seen_through_their_window_as_shallow_ones_are(elements: dict[str, Any]) -> None:
    content = dicoms.encoded(dicoms.dataset(dicoms.chest(12), BitsStored=12, **elements))
    deep, shown = read_deep(content).image, read_xray(content).pixels
    assert len(np.unique(deep.numbers)) >= len(np.unique(dicoms.chest(12))) - 1  # padding is black
    unit = (deep.numbers - deep.centre) / deep.width + 0.5
    assert unit.clip(0, 1) * 255 == pytest.approx(shown, abs=0.51)


def test_signed_values_and_deep_pictures_lose_nothing(tmp_path: Path) -> None:
    stored = dicoms.chest(12)
    signed = read_deep(dicoms.encoded(dicoms.dataset(stored.astype(np.int16) - 2048)))
    assert np.array_equal(signed.image.numbers, stored)
    Image.fromarray(stored * 16).save(tmp_path / "x.png")
    assert np.array_equal(read_deep((tmp_path / "x.png").read_bytes()).image.numbers, stored * 16)


def test_facts_come_with_the_words_that_say_so(client: TestClient) -> None:
    answer = client.post("/v1/facts", json={"report": REPORT}).json()
    presences = {fact["pathology"]: fact["presence"] for fact in answer["facts"]}
    assert presences == {"effusion": "present", "pneumothorax": "absent", "pneumonia": "uncertain"}
    for fact in answer["facts"]:
        assert REPORT[fact["sentence_start"] : fact["sentence_end"]] == fact["sentence"]
        assert fact["sentence_start"] <= fact["start"] < fact["end"] <= fact["sentence_end"]
        cue = REPORT[fact["cue_start"] : fact["cue_end"]] if fact["cue"] else ""
        assert cue == fact["cue"] and (fact["cue_start"] == -1) == (not cue)


def test_of_several_mentions_the_one_that_settles_is_told(client: TestClient) -> None:
    report = "FINDINGS: No left effusion. IMPRESSION: Small left effusion."
    facts = client.post("/v1/facts", json={"report": report}).json()["facts"]
    assert [(fact["presence"], fact["settles"]) for fact in facts] == [("absent", False), ("present", True)]


def test_examples_can_be_read_and_those_of_a_folder_tell_no_names(reader: Reader, png: bytes, tmp_path: Path) -> None:
    (tmp_path / "Mustermann.png").write_bytes(png)
    (tmp_path / "Mustermann.txt").write_text(REPORT)
    (tmp_path / "film.dcm").write_bytes(dicoms.encoded(dicoms.dataset(dicoms.chest())))
    (tmp_path / "notes.csv").write_text("secret")
    with TestClient(make_app([reader], open_examples(str(tmp_path))), HOME) as client:
        listed = client.get("/v1/examples")
        assert "Mustermann" not in listed.text
        assert {one["type"]: one["report"] for one in listed.json()["examples"]} == {
            "image/png": REPORT,
            "application/dicom": "",
        }
        for one in listed.json()["examples"]:
            file = client.get(f"/v1/examples/{one['id']}")
            assert file.headers["content-type"] == one["type"]
            assert client.post("/v1/read", files=upload(file.content)).status_code == 200
        for other in ("0", "3", "01", "notes.csv", "..%2fx", "%00"):
            require_problem(client.get(f"/v1/examples/{other}"), 404)


# --- many at once ---


class Counting(FakeMethod):
    """A method that gives an image its own grey as a probability, counts its looks, and can't answer "?"."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[int] = []

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        if "?" in prompts:
            raise MedLIPError("this can't be asked.")
        self.looks.append(len(images))
        return images.mean((1, 2, 3))[:, None].expand(-1, len(prompts))


def read_at_once(method: FakeMethod, asks: Sequence[str], size: int) -> list[Any]:
    """Read an image of grey i for question i, all at once."""

    async def read() -> list[Any]:
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(Reader(method), executor, size, lambda _: None)
            every = (Wanted(XRay(np.full((32, 32), i, np.uint8)), (ask,), ()) for i, ask in enumerate(asks))
            return await asyncio.gather(*(batcher.read(one) for one in every), return_exceptions=True)

    return asyncio.run(read())


def test_who_waits_together_is_read_together_and_gets_an_answer_of_his_own() -> None:
    method = Counting()
    answers = read_at_once(method, [f"question {i}" for i in range(10)], 4)
    assert method.looks == [4, 4, 2]
    for i, looked in enumerate(answers):
        (asked,) = looked.reading.asked
        assert (asked.text, asked.probability) == (f"question {i}", pytest.approx(i / 255))


def test_a_question_that_cant_be_answered_costs_no_one_else_an_answer() -> None:
    answers = read_at_once(Counting(), ["a", "?", "b"], 16)
    assert [type(answer) for answer in answers] == [Looked, MedLIPError, Looked]


def test_at_once_as_alone(client: TestClient, png: bytes) -> None:
    def ask(text: str) -> float:
        return float(client.post("/v1/ask", files=upload(png), data={"ask": [text]}).json()["asked"][0]["probability"])

    texts = [f"an opacity of {n} mm" for n in range(6)]
    alone = [ask(text) for text in texts]
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(ask, texts)) == pytest.approx(alone, abs=1e-5)


def test_a_server_with_too_much_to_do_says_when_to_come_again(reader: Reader, png: bytes) -> None:
    with TestClient(make_app([reader], limits=Limits(waiting=0)), HOME) as client:
        response = client.post("/v1/read", files=upload(png))
        require_problem(response, 503)
        assert int(response.headers["retry-after"]) >= 1
        assert client.get("/health").status_code == client.get("/ready").status_code == 200


# --- what is refused ---


def test_requests_that_are_none_are_refused_with_a_reason(client: TestClient, png: bytes) -> None:
    post: Callable[..., Any] = client.post
    require_problem(post("/v1/read", json={"file": "x"}), 415)
    require_problem(post("/v1/read", content=b"x", headers={"content-type": "multipart/form-data"}), 400)
    require_problem(post("/v1/read", data={"ask": "x"}, files={"other": png}), 400)
    require_problem(post("/v1/read", files=[("file", png), ("file", png)]), 400)
    require_problem(post("/v1/read", files={"file": (None, "text")}), 400)
    require_problem(post("/v1/read", files=upload(png), data={"surprise": "x"}), 400)
    require_problem(post("/v1/read", files=upload(png), data={"ask": ["x"] * 33}), 422)
    require_problem(post("/v1/read", files=upload(png), data={"ask": ["x" * 1001]}), 422)
    require_problem(post("/v1/read", files=upload(png), data={"ask": [" "]}), 422)
    require_problem(post("/v1/ask", files=upload(png)), 400)
    require_problem(post("/v1/facts", content=b"{", headers={"content-type": "application/json"}), 400)
    require_problem(post("/v1/facts", json={"report": "x" * 50_001}), 422)
    require_problem(post("/v1/facts", json={"report": " "}), 422)
    require_problem(post("/v1/facts", json={"report": "Kein Pleuraerguss. Herz und Mediastinum sind unauffällig."}), 422)
    require_problem(post("/health"), 405)
    require_problem(client.get("/v1/reads"), 404)


def test_every_broken_file_is_refused_and_none_names_anyone(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for _, content in broken.corpus():
        require_problem(client.post("/v1/read", files=upload(content)), 422)
    whole = dicoms.encoded(dicoms.dataset(dicoms.chest()))
    for part in (whole[:-100], whole[: len(whole) // 2], whole[:200]):
        require_problem(client.post("/v1/pixels", files=upload(part)), 422)
    assert not re.search(r"Mustermann|Erika|4711", caplog.text)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", bytes(128) + b"DICM"]), rest=st.binary())
def test_no_bytes_are_more_than_the_server_can_take(client: TestClient, start: bytes, rest: bytes) -> None:
    require_problem(client.post("/v1/read", files=upload(start + rest)), 422)
    boundary = {"content-type": "multipart/form-data; boundary=x"}
    require_problem(client.post("/v1/read", content=b"--x\r\n" + start + rest, headers=boundary), 400)


def test_uploads_over_the_limit_are_refused_whether_they_say_so_or_not(reader: Reader) -> None:
    with TestClient(make_app([reader], limits=Limits(upload_bytes=1000)), HOME) as client:
        require_problem(client.post("/v1/read", files=upload(bytes(2000))), 413)
        form = {"content-type": "multipart/form-data; boundary=x"}
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        require_problem(client.post("/v1/read", content=iter([head, *[bytes(100)] * 20]), headers=form), 413)


def test_a_token_is_needed_where_others_reach_the_server() -> None:
    require_token("127.0.0.1", None)
    require_token("::1", None)
    require_token("0.0.0.0", TOKEN)
    for host, token in (
        ("0.0.0.0", None),
        ("::", None),
        ("example.org", ""),
        ("127.0.0.1", "short"),
        ("::1", "with a blank in it"),
    ):
        with pytest.raises(MedLIPError, match="token"):
            require_token(host, token)


def test_whoever_lacks_the_token_gets_no_data(reader: Reader) -> None:
    with TestClient(make_app([reader], token=TOKEN), "https://xrays.example.org") as client:
        for path in ("/v1/models", "/v1/examples/1", "/metrics", "/openapi.json"):
            for given in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": TOKEN},
                {"Authorization": "Bearer é".encode()},
            ):
                response = client.get(path, headers=given)
                require_problem(response, 401)
                assert response.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.get("/health").status_code == 200


def test_pages_of_other_sites_get_nothing(client: TestClient, png: bytes) -> None:
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        require_problem(client.post("/v1/read", files=upload(png), headers=headers), 403)
    require_problem(client.get("/v1/models", headers={"Host": "evil.example"}), 421)
    own = client.post("/v1/read", files=upload(png), headers={"Origin": HOME, "Sec-Fetch-Site": "same-origin"})
    assert own.status_code == 200 and "access-control-allow-origin" not in own.headers


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nothing", "/openapi.json", "/metrics"])
def test_every_answer_is_marked_and_guarded(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "Not a medical device" in headers["x-disclaimer"]
    assert "default-src 'none'" in headers["content-security-policy"] and "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"


def test_the_viewers_folder_is_all_that_is_served(tmp_path: Path, client: TestClient) -> None:
    folder = tmp_path / "viewer"
    (folder / "vendor").mkdir(parents=True)
    for name in ("index.html", "vendor/core.js", ".secret.js", "program.py", "../outside.js"):
        (folder / name).write_text(name)
    files = ViewerFiles(folder)

    def answer(name: str, **headers: str) -> Any:
        raw = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
        return files.answer(name, Request({"type": "http", "headers": raw}))

    page = answer("")
    assert page.body == b"index.html" and page.media_type.startswith("text/html")
    assert answer("vendor/core.js").media_type.startswith("text/javascript")
    assert answer("", if_none_match=page.headers["etag"]).status_code == 304
    for name in (
        ".secret.js",
        "program.py",
        "../outside.js",
        "vendor",
        "vendor/../index.html",
        "/index.html",
        str(tmp_path),
    ):
        with pytest.raises(ProblemError):
            answer(name)
    for path in ("/../about.py", "/%2e%2e/about.py", "/..%2fabout.py", "/server/guard.py", "/%00"):
        require_problem(client.get(path), 404)


# --- what it says of itself ---


def test_the_description_is_whole(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        *("/v1/read", "/v1/ask", "/v1/facts", "/v1/pixels", "/v1/models", "/v1/examples", "/v1/examples/{id}"),
        *("/health", "/ready", "/metrics"),
    }
    for operations in described["paths"].values():
        for operation in operations.values():
            assert operation["summary"] and operation["description"]
            problems = {code: one for code, one in operation["responses"].items() if code != "200"}
            assert problems and all("application/problem+json" in one["content"] for one in problems.values())
            assert operation["responses"]["200"]["content"]
    assert "Not a medical device" in described["info"]["description"]


def test_what_was_done_is_counted_by_kind_and_not_by_name(client: TestClient, png: bytes) -> None:
    client.get("/Mustermann")
    client.post("/v1/read", files=upload(png))
    text = client.get("/metrics").text
    assert 'medlip_requests_total{path="/v1/read",status="200"}' in text
    assert 'medlip_images_total{model="medslip"}' in text and "medlip_decoder_restarts 0.0" in text
    assert "Mustermann" not in text


def test_models_say_what_they_know(client: TestClient, reader: Reader) -> None:
    answer = client.get("/v1/models").json()
    (model,) = answer["models"]
    assert [one["name"] for one in model["pathologies"]] == [one.name for one in reader.vocabulary.pathologies]
    assert {one["side"] for one in model["anatomies"]} == {"left", "right", ""}
    assert model["can"] == {"places": True, "open_text": True, "absolute_maps": True}
    assert answer["limits"]["upload_bytes"] == Limits().upload_bytes


def test_the_command_refuses_what_it_cant_do(medlip: Callable[..., Any], tmp_path: Path) -> None:
    nothing, broken_model = tmp_path / "run", tmp_path / "broken.safetensors"
    nothing.mkdir()
    broken_model.write_bytes(b"no weights")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, why in (
            ((nothing, "--host", "0.0.0.0"), "MEDLIP_TOKEN"),
            ((nothing, "--host", "0.0.0.0", "--token", "short"), "too easily guessed"),
            ((nothing, "--port", 0), "no model.safetensors"),
            ((broken_model, "--port", 0), "broken.safetensors"),
            ((nothing, "--port", port), f"can't listen on 127.0.0.1, port {port}"),
        ):
            outcome = medlip("serve", *arguments)
            assert (outcome.code, outcome.out) == (1, "")
            assert outcome.last_line.startswith("error: ") and why in outcome.last_line and "Traceback" not in outcome.err
