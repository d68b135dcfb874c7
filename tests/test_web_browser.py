"""The page in a real browser, opened from a disk: its images are Python's."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace

import pytest
import torch

from consistency.errors import UserError
from consistency.export.web import Web
from consistency.nets.mlp import MLP
from tests.conftest import ROOT
from tests.test_web import mlp, two_times


class Browser:
    """Headless Chromium, spoken to through a pipe (DevTools protocol): messages are JSON and end with a zero.

    Not --dump-dom: with its virtual time nobody waits for a program that is compiled in the background.
    """

    def __init__(self, binary, profile):
        (theirs, self.say), (self.hear, back) = os.pipe(), os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (theirs, back)]
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command = [binary, *flags, "--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "bash", *command],
            pass_fds=high,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (theirs, back, *high):
            os.close(fd)
        self.rest, self.number, self.page = b"", 0, {}

    def __enter__(self):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.page = {"sessionId": attached["sessionId"]}
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        for fd in (self.say, self.hear):
            os.close(fd)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **self.page}
        os.write(self.say, json.dumps(message).encode() + b"\0")
        while (answer := self.next()).get("id") != self.number:
            pass
        return answer["result"]

    def next(self):
        while b"\0" not in self.rest:
            got = os.read(self.hear, 65536)
            assert got, "the browser has gone"
            self.rest += got
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def until(self, expression, seconds):
        """Its value, once it has one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.call("Runtime.evaluate", expression=expression)["result"].get("value")
            if value:
                return value
            time.sleep(0.2)
        raise AssertionError(f"{expression} has no value after {seconds} s")


def page_of(model, folder):
    """Address of the page of a model, in a folder."""
    pytest.importorskip("onnxscript")
    try:
        written = Web(ROOT / "data" / "cache")(model, folder)
    except UserError as error:
        if "cannot be downloaded" in str(error):
            pytest.skip(str(error))
        raise
    assert sum(path.stat().st_size for path in written.files) < 15e6
    return (folder / "index.html").as_uri()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a model with a long name."""
    model = mlp(shape=(1, 8, 8), classes=10)
    where = replace(model.provenance, experiment="a_name_of_one_word_that_is_wider_than_a_telephone")
    return page_of(replace(model, provenance=where), tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page_of_jumps(tmp_path_factory):
    """The page of a flow map."""
    net = MLP((1, 8, 8), 0, width=16, blocks=1, times=2)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return page_of(two_times((1, 8, 8), net=net), tmp_path_factory.mktemp("jumps"))


@pytest.fixture
def browser(tmp_path):
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no chromium")
    with Browser(binary, tmp_path / "browser") as opened:
        yield opened


WIDE = """[...document.querySelectorAll("body *")].filter((part) => part.getBoundingClientRect().right >
  document.documentElement.clientWidth + 0.5).map((part) => part.tagName + part.id).join() || "none" """


def narrow(browser, width):
    """A screen of so many pixels."""
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=640, deviceScaleFactor=1, mobile=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["samples", "walk", "complete", "draw"])
def test_nothing_is_wider_than_a_narrow_screen(browser, page, mode):
    for width in (240, 280, 320, 390):
        narrow(browser, width)
        browser.call("Page.navigate", url="about:blank")
        browser.call("Page.navigate", url=f"{page}#mode={mode}")
        browser.until("/ ms$/.test(document.getElementById('figure')?.textContent)", seconds=100)
        assert browser.until(WIDE, seconds=1) == "none"


@pytest.mark.slow
def test_a_browser_without_simd_says_so(browser, page):
    browser.call("Page.enable")
    browser.call("Page.addScriptToEvaluateOnNewDocument", source="WebAssembly.validate = () => false")
    narrow(browser, 240)
    browser.call("Page.navigate", url=page)
    browser.until("/SIMD/.test(document.getElementById('unit')?.textContent)", seconds=100)
    assert browser.until("document.documentElement.scrollWidth", seconds=1) == 240


@pytest.mark.slow
def test_a_browser_makes_pythons_images_from_a_disk(browser, page):
    browser.call("Page.navigate", url=f"{page}#check")
    report = browser.until("document.getElementById('check')?.textContent", seconds=200)
    errors = dict(re.findall(r"(\d steps|completion|max error) ([\d.e+-]+)", report))
    assert errors.keys() == {"1 steps", "2 steps", "4 steps", "completion", "max error"}
    assert all(float(error) < 1e-3 for error in errors.values()), report
    assert "64 images" in report


@pytest.mark.slow
def test_a_browser_jumps_as_python_does(browser, page_of_jumps):
    browser.call("Page.navigate", url=f"{page_of_jumps}#check")
    report = browser.until("document.getElementById('check')?.textContent", seconds=200)
    errors = dict(re.findall(r"(\d steps|\d mixed|completion|max error) ([\d.e+-]+)", report))
    counts = {"1 steps", "2 steps", "4 steps", "8 steps"}
    assert errors.keys() == {*counts, "4 mixed", "completion", "max error"}
    assert all(float(error) < 1e-3 for error in errors.values()), report


SLIDE = """{ const slider = document.getElementById(%r); slider.value = %r;
  slider.dispatchEvent(new Event("input")); location.hash }"""


@pytest.mark.slow
def test_sliders_choose_jumps_and_fresh_noise(browser, page, page_of_jumps):
    drawn = "/ ms$/.test(document.getElementById('figure')?.textContent)"
    browser.call("Page.navigate", url=page_of_jumps)
    browser.until(drawn, seconds=100)
    assert browser.until("document.getElementById('counts').textContent", seconds=1) == "1248"
    assert "steps=8" in browser.until(SLIDE % ("steps", "3"), seconds=1)
    assert "gamma=0.5" in browser.until(SLIDE % ("gamma", "0.5"), seconds=1)
    browser.until("/8 network calls/.test(document.getElementById('unit').textContent)", seconds=100)
    narrow(browser, 240)
    assert browser.until(WIDE, seconds=1) == "none"
    browser.call("Page.navigate", url="about:blank")
    browser.call("Page.navigate", url=page)
    browser.until(drawn, seconds=100)
    assert browser.until("document.getElementById('counts').textContent", seconds=1) == "124"
    assert browser.until("document.getElementById('fresh').hidden", seconds=1) is True
