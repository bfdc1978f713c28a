"""What a real browser makes of the demo's page."""

import json
import shutil
import time

import numpy as np
import pytest
from demo_server import PHOTO, STREET, serving

from bisenet_jax.segmenter import Segmenter

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)


@pytest.fixture
def served(tiny_weights):
    """The port of the page, and the network behind it."""
    segmenter = Segmenter(tiny_weights)
    with serving(segmenter) as port:
        yield port, segmenter


@pytest.fixture
def browser(tmp_path):
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium here: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # A path to the driver keeps selenium from looking for one in the world.
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait_for(fact, seconds: float = 60):
    deadline = time.monotonic() + seconds
    while not (found := fact()):
        assert time.monotonic() < deadline, "the page did not get there"
        time.sleep(0.05)
    return found


def test_in_a_browser(browser, served, tmp_path):
    port, segmenter = served
    photo, bad = tmp_path / "photo.png", tmp_path / "bad.png"
    photo.write_bytes(PHOTO)
    bad.write_bytes(b"no picture")

    def element(name):
        return browser.find_element("id", name)

    def shown() -> int:
        return int(element("frame").get_attribute("data-count") or 0)

    browser.get(f"http://127.0.0.1:{port}/")
    wait_for(lambda: "camvid" in element("network").text)
    element("file").send_keys(str(photo))
    wait_for(lambda: shown() == 1)

    # The legend tells the shares of the labels.
    labels = segmenter.predict(STREET)
    names = segmenter.class_set.names
    legend = {
        item.find_element("class name", "name").text: item.text
        for item in element("legend").find_elements("tag name", "li")
    }
    assert set(legend) == {names[index] for index in np.unique(labels)}
    most = np.bincount(labels.ravel()).argmax()
    assert f"{100 * (labels == most).mean():.1f} %" in legend[names[most]]
    assert names[most] in element("frame").get_attribute("aria-label")

    # The mask on the canvas is that of the labels, over the picture.
    def pixels(canvas: str) -> np.ndarray:
        script = """const canvas = document.getElementById(arguments[0]);
            const {width, height} = canvas;
            return [height, width, Array.from(canvas.getContext("2d")
                .getImageData(0, 0, width, height).data)];"""
        height, width, values = browser.execute_script(script, canvas)
        return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]

    np.testing.assert_array_equal(pixels("mask"), segmenter.class_set.palette[labels])
    np.testing.assert_array_equal(pixels("picture"), STREET)
    browser.execute_script(
        "const slider = document.getElementById('opacity'); slider.value = 20;"
        "slider.dispatchEvent(new Event('input'));"
    )
    assert element("mask").value_of_css_property("opacity") == "0.2"
    for name in ("decode", "compute", "draw", "wait", "rest", "all"):
        assert element(name).text.endswith(" ms")

    element("file").send_keys(str(bad))
    wait_for(lambda: "no readable picture" in element("message").text)
    element("camera").click()
    wait_for(lambda: shown() >= 4)
    assert "frames/s" in wait_for(lambda: element("status").text)
    element("camera").click()
    assert element("camera").text == "Use the camera" and not element("message").text

    # Every request stayed on this machine; of chrome: and the like the browser itself is made.
    events = [
        json.loads(entry["message"])["message"] for entry in browser.get_log("performance")
    ]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert sum("/segment" in url for url in urls) >= 5
    own = (f"http://127.0.0.1:{port}/", "data:", "blob:", "chrome:", "chrome-untrusted:")
    for url in urls:
        assert url.startswith(own), url
    faults = [entry["message"] for entry in browser.get_log("browser")]
    assert all("415" in fault for fault in faults)
