"""What the pages tell to type is typed: every curl line, the Python, the service."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from serving import Live

ROOT = Path(__file__).resolve().parents[3]
HERE = "http://127.0.0.1:8080"


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def curls() -> list[str]:
    lines = "".join(blocks("serve.md", "sh")).splitlines()
    return [line for line in lines if line.startswith("curl")]


def test_each_call_has_its_curl_line(live: Live, photo: bytes, tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("no curl here")
    (tmp_path / "ref.jpg").write_bytes(photo)
    called = set()
    for line in curls():
        command = line.replace(HERE, live.url).replace("curl ", "curl --fail-with-body ", 1)
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        sends = "-F" in line or "--json" in line
        method = "DELETE" if "-X DELETE" in line else "POST" if sends else "GET"
        called.add((method, line.partition(HERE)[2].split(" ")[0].split("?")[0]))
    assert (tmp_path / "thumbnail.jpg").read_bytes().startswith(b"\xff\xd8")
    assert called == {
        ("POST", "/v1/search"),
        ("POST", "/v1/items"),
        ("GET", "/v1/items"),
        ("GET", "/v1/items/new%2F1/image"),
        ("DELETE", "/v1/items/new%2F1"),
        *(("GET", path) for path in ("/", "/health", "/ready", "/metrics", "/openapi.json")),
    }


def test_the_python_runs(
    live: Live,
    photo: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "ref.jpg").write_bytes(photo)
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("serve.md", "python")
    exec(compile(code.replace(HERE, live.url), "serve.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_systemd_takes_the_service(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd here")
    (unit,) = blocks("deploy.md", "ini")
    file = tmp_path / "cir-rt.service"
    file.write_text(unit.replace("/opt/cir-rt/bin/cir-rt", shutil.which("true") or "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if file.name in line]
    assert complaints == []
