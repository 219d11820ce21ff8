import pytest

from llambert.report.page import report
from tests.fixtures.chromium import CHROMIUM, Page
from tests.fixtures.synthetic_run import Plan, write_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    run = write_run(tmp_path_factory.mktemp("browser"), Plan(splits=("train", "test")))
    report(run)
    return tmp_path_factory.getbasetemp() / run.table("report").path("report.html")


@pytest.fixture(scope="module")
def page():
    opened = Page()
    yield opened
    opened.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280], ids=["phone", "desktop"])
def test_the_report_opens_without_an_error_or_a_request_and_fits_its_window(html, page, width, dark):
    page.open(html.as_uri(), width, dark)
    requests = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in requests if not url.startswith("data:")] == [html.as_uri()]
    assert [event for event in page.events if event["method"] != "Network.requestWillBeSent"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == dark
    assert page.evaluate("document.querySelectorAll('figure svg').length") >= 5
    assert page.screenshot().startswith(b"\x89PNG")


def test_texts_of_records_stay_texts(html, page):
    page.open(html.as_uri(), 390, dark=False)
    assert page.evaluate("document.querySelectorAll('script').length") == 0
    assert page.evaluate("document.body.innerText.includes('<script>alert(')")


def test_an_error_and_a_request_would_be_seen(tmp_path, page):
    (tmp_path / "faulty.html").write_text("<script>nothing.there()</script><img src='http://127.0.0.1:9/x.png'>")
    page.open((tmp_path / "faulty.html").as_uri(), 390, dark=False)
    methods = {event["method"] for event in page.events}
    assert "Runtime.exceptionThrown" in methods
    assert any("x.png" in str(event) for event in page.events)
