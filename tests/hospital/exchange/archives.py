"""Archives of the test's own, on the loopback address: C-STORE and DICOMweb."""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from pynetdicom import AE, evt

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
REPORTS = (
    "1.2.840.10008.5.1.4.1.1.88.22",
    "1.2.840.10008.5.1.4.1.1.88.33",
    "1.2.840.10008.5.1.4.1.1.88.34",
)
MODERN = (RLELossless, ExplicitVRLittleEndian, ImplicitVRLittleEndian)
NONE_FAILED = b'{"00081198": {"vr": "SQ"}}'  # as Orthanc says it
Status = Callable[[int], int]


class Archive:
    """What an archive has received, and how to call it."""

    def __init__(self) -> None:
        self.address = ""
        self.received: list[Any] = []
        self.status: Status = lambda _: 0x0000

    @property
    def uids(self) -> list[str]:
        return [str(data.SOPInstanceUID) for data in self.received]


@contextmanager
def dicom_archive(
    kinds: Sequence[str] = (SEG, CAPTURE, *REPORTS), syntaxes: Sequence[str] = MODERN
) -> Iterator[Archive]:
    """Yield an archive that answers the n-th request with ``status(n)``."""
    archive = Archive()
    requests = []

    def store(event: Any) -> int:
        requests.append(event)
        status = archive.status(len(requests))
        if status == 0:
            data = event.dataset
            data.file_meta = event.file_meta
            archive.received.append(data)
        return status

    entity = AE(ae_title="ARCHIVE")
    for kind in kinds:
        entity.add_supported_context(kind, list(syntaxes))
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]
    )
    archive.address = f"ARCHIVE@127.0.0.1:{server.server_address[1]}"
    try:
        yield archive
    finally:
        server.shutdown()


@contextmanager
def web_archive() -> Iterator[Archive]:
    """Yield a DICOMweb service that answers the n-th request with the HTTP code ``status(n)``."""
    archive = Archive()
    archive.status = lambda _: 200
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append(self.path)
            code = archive.status(len(requests))
            if code == 200:
                archive.received.append(part_of(body, self.headers["Content-Type"]))
            content = failed(0x0122) if code == 409 else NONE_FAILED
            self.send_response(code)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    archive.address = f"http://127.0.0.1:{server.server_port}/dicom-web"
    try:
        yield archive
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def part_of(body: bytes, kind: str) -> Any:
    """Return the object of a request that holds one."""
    boundary = re.search(r"boundary=(\w+)", kind)[1].encode()  # type: ignore[index]
    _, part, end = body.split(b"--" + boundary)
    assert end == b"--\r\n"
    headers, _, content = part.partition(b"\r\n\r\n")
    assert headers == b"\r\nContent-Type: application/dicom"
    return dcmread(BytesIO(content.removesuffix(b"\r\n")))


def failed(reason: int) -> bytes:
    item = f'{{"00081197": {{"vr": "US", "Value": [{reason}]}}}}'
    return f'{{"00081198": {{"vr": "SQ", "Value": [{item}]}}}}'.encode()
