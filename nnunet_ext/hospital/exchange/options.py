"""Arguments of the commands that send and receive."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_ext.errors import InputError
from nnunet_ext.hospital.exchange.destinations import ae_title_of

if TYPE_CHECKING:
    from nnunet_ext.hospital.exchange.destinations import Destination
    from nnunet_ext.hospital.exchange.sending import Sent
    from nnunet_ext.hospital.survey import Survey

QUIET_S = 60.0  # a watched folder has arrived when nothing changed for so long
OWN_TITLE = "NNUNET_EXT"


def add_destinations(parser: argparse.ArgumentParser) -> None:
    """Add where results are sent."""
    group = parser.add_argument_group("archive")
    group.add_argument(
        "--send",
        action="append",
        default=[],
        metavar="AET@HOST:PORT",
        help="send results by C-STORE; may be given several times",
    )
    group.add_argument(
        "--stow",
        action="append",
        default=[],
        metavar="URL",
        help="send results to a DICOMweb service, such as http://HOST:8042/dicom-web; a token is "
        "taken from nnUNet_ext_stow_token; may be given several times",
    )
    group.add_argument(
        "--aet", default=OWN_TITLE, metavar="AET", help=f"own AE title, default {OWN_TITLE}"
    )


def add_watch(parser: argparse.ArgumentParser) -> None:
    """Add what makes the command stay and answer studies as they arrive."""
    group = parser.add_argument_group("watch")
    group.add_argument(
        "--watch",
        action="store_true",
        help="stay, and answer each folder below EXPORT once it has finished arriving",
    )
    group.add_argument(
        "--quiet",
        type=float,
        default=QUIET_S,
        metavar="SECONDS",
        help=f"a folder has arrived when nothing changed for so long, default {QUIET_S:g}",
    )


def send_all(output: Path, found: Survey, destinations: Sequence[Destination]) -> Sent:
    """Send the results of all studies that have any.

    Raises:
        InputError: the state of what was sent before is damaged.
    """
    from nnunet_ext.hospital.exchange.sending import Sent, results_folders, send_results
    from nnunet_ext.hospital.exchange.state import opened_state

    if not destinations:
        return Sent()
    folders = results_folders(found, output)
    with opened_state(output) as state:
        return send_results(folders, destinations, state)


def destinations_of(arguments: argparse.Namespace) -> list[Destination]:
    """Return what :func:`add_destinations` names.

    Raises:
        InputError: an address is wrong, or ``pynetdicom`` is not installed.
    """
    from nnunet_ext.hospital.exchange.c_store import CStoreDestination
    from nnunet_ext.hospital.exchange.stow import StowDestination

    own_title = ae_title_of(arguments.aet)
    found: list[Destination] = []
    for address in arguments.send:
        found.append(CStoreDestination(address, own_title))
    for address in arguments.stow:
        found.append(StowDestination(address))
    if arguments.send:
        require_network()
    return found


def require_network() -> None:
    """Check that DICOM's network is installed.

    Raises:
        InputError: it is not.
    """
    from importlib.util import find_spec

    if find_spec("pynetdicom") is None:
        raise InputError('pynetdicom is not installed; pip install "nnunetv2-ext[dicom]"')
