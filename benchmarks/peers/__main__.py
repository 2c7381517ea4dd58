"""Other face detectors beside ours on the same photos: average precision, time and memory.

    python -m benchmarks.peers FACES [CANVASES ...] -o OUT [--peers ours dlib-hog ...] [--sources ...] [--limit N]

FACES is a folder of labelled photos in the Parquet form, or of canvases made by `retinafocus make-4k`; each folder is a
set with a table of its own. Sources whose faces only detectors saw are left out, unless --sources names them.

Every detector runs in its own virtual environment with exact pins (`benchmarks/peers/requirements`), which is made when
it is first needed, with uv where there is one: that needs a package index, and up to some GB of disk for those on torch
and TensorFlow. All are bound to one thread where they can be. Time is processor time from the photo's file to its
boxes, memory the most that the detector's process ever held, both at the detector's own threshold. AP comes from a
second run at a low threshold. Boxes mean different things to different detectors (dlib's end at the brows and within
the cheeks): AP at IoU 0.3 is told beside that at 0.5, so that a convention is not taken for blindness.

OUT keeps every answer, so a run that was cut short goes on where it ended and more --peers can be added later. A peer
whose script, settings or pins changed is asked anew; a changed RetinaFocus and photos changed under the same names are
not noticed, and photos without an answer are not asked for again: delete OUT/answers to measure anew. OUT gets
`peers.parquet` and `peers.md`: of the sets and peers of this command, or with --tables-only of those among them that
OUT already has every answer of, and nobody is asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.cascade import machine
from benchmarks.peers.answers import answers_of, kept_answers
from benchmarks.peers.catalogue import PEERS, Peer, chosen_peers
from benchmarks.peers.conversation import PeerFault
from benchmarks.peers.environments import ENVIRONMENTS
from benchmarks.peers.report import Measured, Row, rows_of, to_markdown, to_table
from benchmarks.peers.sets import PhotoSet, has_canvases, read_set
from retinafocus.errors import RunError


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="sets of labelled photos")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of answers and tables")
    parser.add_argument(
        "--peers", nargs="+", help=f"names or their beginnings (default: all: {', '.join(peer.name for peer in PEERS)})"
    )
    parser.add_argument("--sources", nargs="+", help="of the photos (default: all with faces that people labelled)")
    parser.add_argument("--limit", type=int, help="most photos of a set, spread over it (default: all)")
    parser.add_argument("--limit-canvases", type=int, help="most canvases of a set, spread over it (default: all)")
    parser.add_argument(
        "--environments", type=Path, default=ENVIRONMENTS, help=f"virtual environments (default: {ENVIRONMENTS.name})"
    )
    parser.add_argument("--tables-only", action="store_true", help="of the answers that are there")
    options = parser.parse_args(arguments)
    try:
        peers = chosen_peers(options.peers)
    except ValueError as error:
        parser.error(str(error))
    sets = [
        read_set(folder, options.sources, options.limit_canvases if has_canvases(folder) else options.limit)
        for folder in options.folders
    ]
    names = [photo_set.name for photo_set in sets]
    if len(set(names)) < len(names):
        parser.error(f"two sets have the same name ({', '.join(names)}), and it tells them apart; rename a folder")
    print(machine(), flush=True)
    rows: list[Row] = []
    faults: dict[str, str] = {}
    for photo_set in sets:
        for peer in peers:
            try:
                measured = _measured(peer, photo_set, options)
            except (PeerFault, RunError) as error:
                faults[f"{peer.name} ({photo_set.name})"] = str(error)
                print(f"{peer.name} on {photo_set.name}: {error}", flush=True)
            else:
                rows += [] if measured is None else rows_of(measured)
    options.output.mkdir(parents=True, exist_ok=True)
    pq.write_table(to_table(rows), options.output / "peers.parquet")
    text = to_markdown(rows, faults)
    (options.output / "peers.md").write_text(text)
    print(f"\n{text}")


def _measured(peer: Peer, photo_set: PhotoSet, options: argparse.Namespace) -> Measured | None:
    """Both runs of a peer; None where only kept answers are wanted and one is missing."""
    runs = {}
    for run in ("default",) if peer.low is None else ("default", "low"):
        store = options.output / "answers" / f"{photo_set.name}.{peer.name}.{run}.jsonl"
        if options.tables_only:
            kept = kept_answers(peer, run, photo_set.paths, store)
        else:
            kept = answers_of(peer, run, photo_set.paths, store, options.environments)
        if kept is None:
            return None
        runs[run] = kept
    hello, default = runs["default"]
    _, low = runs.get("low", runs["default"])
    return Measured(set_name=photo_set.name, peer=peer, hello=hello, truths=photo_set.truths, default=default, low=low)


if __name__ == "__main__":
    main()
