"""Send results to Orthanc, open them in OHIF, and take a picture of the segmentation on its slice.

Needs Orthanc with its DICOMweb plugin, Chromium, and the built viewer::

    apt-get install orthanc orthanc-dicomweb chromium && Orthanc CONFIGURATION
    npm pack @ohif/app && tar xzf ohif-app-*.tgz
    python -m benchmarks.shown_in_ohif -i EXPORT/STUDY -r OUT/case-1f0c --ohif package/dist -o .

``shown_in_ohif.png`` shows the first slice of the first segment. Look at it: the segment must cover
what it stands for.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import sync_playwright
from pydicom import dcmread

from nnunet_ext.hospital.exchange.sending import send_results
from nnunet_ext.hospital.exchange.state import opened_state
from nnunet_ext.hospital.exchange.stow import StowDestination

DICOM_WEB = "/dicom-web"
PICTURE = "shown_in_ohif.png"
SOFTWARE_WEBGL = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
PATIENCE_MS = 180_000
DRAWING_MS = 15_000  # the viewer does not say when a slice has been drawn
CONFIGURATION = """window.config = {
  routerBasename: "/", extensions: [], modes: [], showStudyList: true,
  investigationalUseDialog: { option: "never" }, defaultDataSourceName: "dicomweb",
  dataSources: [{
    namespace: "@ohif/extension-default.dataSourcesModule.dicomweb", sourceName: "dicomweb",
    configuration: {
      friendlyName: "Orthanc", name: "orthanc", qidoRoot: "/dicom-web", wadoRoot: "/dicom-web",
      imageRendering: "wadors", thumbnailRendering: "wadors", enableStudyLazyLoad: true,
      omitQuotationForMultipartRequest: true, bulkDataURI: { enabled: true },
    },
  }],
};"""


class Viewer(SimpleHTTPRequestHandler):
    """Serves the viewer, and passes its requests of DICOMweb on to Orthanc."""

    def __init__(self, *arguments: Any, orthanc: str, **options: Any) -> None:
        self.orthanc = orthanc
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(DICOM_WEB):
            accept = {"Accept": self.headers.get("Accept", "*/*")}
            answer = requests.get(self.orthanc + self.path, headers=accept, timeout=60)
            here = f"http://{self.headers['Host']}".encode()
            content = answer.content.replace(self.orthanc.encode(), here)
            self.answer(answer.status_code, answer.headers["Content-Type"], content)
        elif path == "/app-config.js":
            self.answer(200, "text/javascript", CONFIGURATION.encode())
        else:
            if not Path(self.translate_path(path)).is_file():
                self.path = "/index.html"
            super().do_GET()

    def answer(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(viewer: Path, orthanc: str) -> Iterator[str]:
    handler = partial(Viewer, orthanc=orthanc, directory=str(viewer))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def upload(images: Path, results: Path, orthanc: str) -> str:
    """Put images and results into Orthanc; returns the UID of the study."""
    study = ""
    for file in sorted(images.rglob("*.dcm")):
        requests.post(f"{orthanc}/instances", data=file.read_bytes(), timeout=60).raise_for_status()
        study = str(dcmread(file, stop_before_pixels=True).StudyInstanceUID)

    with tempfile.TemporaryDirectory() as temporary, opened_state(Path(temporary)) as state:
        sent = send_results([results], [StowDestination(orthanc + DICOM_WEB)], state)
    assert sent.is_complete, sent.answers
    return study


def photograph(address: str, study: str, series_number: int, picture: Path) -> None:
    """Open the segmentation in the viewer and take a picture of it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(SOFTWARE_WEBGL)
        )
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{address}/viewer?StudyInstanceUIDs={study}", wait_until="commit")
        page.get_by_text("Skip all").click()
        page.get_by_text(f"S:{series_number}").first.dblclick()
        page.get_by_role("button", name="Yes").click()
        page.wait_for_timeout(DRAWING_MS)
        page.screenshot(path=str(picture))
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-i", type=Path, required=True, help="images of the study")
    parser.add_argument("-r", type=Path, required=True, help="its folder of results")
    parser.add_argument("--ohif", type=Path, required=True, help="folder of the built viewer")
    parser.add_argument("--orthanc", default="http://127.0.0.1:8042")
    parser.add_argument("-o", type=Path, default=Path(), help="receives the picture")
    arguments = parser.parse_args()

    study = upload(arguments.i, arguments.r, arguments.orthanc)
    segmentation = dcmread(arguments.r / "segmentation.dcm", stop_before_pixels=True)
    with served(arguments.ohif, arguments.orthanc) as address:
        photograph(address, study, segmentation.SeriesNumber, arguments.o / PICTURE)
    print(arguments.o / PICTURE)


if __name__ == "__main__":
    main()
