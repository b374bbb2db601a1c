"""``nnUNetv2_ext_listen``: receive studies from scanners and archives into a watched folder."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from nnunet_ext.commands.entry import command
from nnunet_ext.hospital import options
from nnunet_ext.hospital.exchange import options as exchange


@command
def listen_entry(argv: list[str] | None = None) -> int:
    """Console script ``nnUNetv2_ext_listen``."""
    arguments = _parser().parse_args(argv)
    exchange.require_network()
    with options.without_library_remarks():
        return _listen(arguments)


def _listen(arguments: argparse.Namespace) -> int:
    # Imported here, so that --help and wrong arguments answer at once.
    from nnunet_ext.files.folders import make_folder
    from nnunet_ext.hospital.exchange.listener import Limits, Listener, network_of

    limits = Limits(
        callers=tuple(arguments.allow_aet),
        addresses=tuple(network_of(text) for text in arguments.allow_address),
        object_bytes=arguments.largest_mb << 20,
        free_bytes=arguments.keep_free_gb << 30,
        associations=arguments.associations,
    )
    make_folder(arguments.o, "choose another -o")

    listener = Listener(arguments.o, arguments.aet, limits)
    with listener.listening(arguments.host, arguments.port) as port:
        print(f"listening as {arguments.aet} at {arguments.host}:{port}", flush=True)
        signal.signal(signal.SIGTERM, _stopped)
        while True:
            signal.pause()


def _stopped(*_: Any) -> None:
    """End as systemd and Docker ask for it."""
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_ext_listen",
        description="Receive CT and MR images by C-STORE, each study into a folder of its own, "
        "for nnUNetv2_ext_predict_dicom --watch.",
        epilog="DICOM's network is not encrypted. Listen beyond this machine only in a network "
        "that you trust, and name those that may send.",
    )
    parser.add_argument(
        "-o", type=Path, required=True, metavar="INCOMING", help="a folder per study is made here"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address, default 127.0.0.1")
    parser.add_argument("--port", type=int, default=11112, help="default 11112; 0: a free one")
    parser.add_argument(
        "--aet",
        default=exchange.OWN_TITLE,
        help=f"own AE title, by which it must be called, default {exchange.OWN_TITLE}",
    )
    parser.add_argument(
        "--allow-aet",
        action="append",
        default=[],
        metavar="AET",
        help="AE title that may send, may be given several times; default: all",
    )
    parser.add_argument(
        "--allow-address",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="address or network that may send, such as 10.1.0.0/16, may be given several times; "
        "default: all",
    )
    parser.add_argument(
        "--largest-mb", type=int, default=1024, metavar="MIB", help="of an object, default 1024"
    )
    parser.add_argument(
        "--keep-free-gb",
        type=int,
        default=5,
        metavar="GIB",
        help="refuse objects below this much free disk, default 5",
    )
    parser.add_argument(
        "--associations",
        type=int,
        default=20,
        metavar="N",
        help="callers at the same time, default 20",
    )
    return parser
