"""Data sets whose description is altered and signed again, or is as earlier versions wrote it."""

import json

from dglrec.dataset import DATASET_FILE, PROOFS
from dglrec.dataset.layout import CHECKSUM, checksum_of, fingerprint_of
from dglrec.dataset.mapped import MappedFiles


def sign(folder, meta):
    """Write a description of a data set that passes for genuine, whatever it says."""
    meta = {key: value for key, value in meta.items() if key not in ("fingerprint", CHECKSUM)}
    meta["fingerprint"] = fingerprint_of(meta)
    if any(entry in meta for entry in PROOFS):
        meta[CHECKSUM] = checksum_of(meta)
    (folder / DATASET_FILE).write_text(json.dumps(meta))


def read_meta(folder):
    return json.loads((folder / DATASET_FILE).read_text())


def as_of_an_earlier_version(folder, *without):
    """Leave out what earlier versions did not write: checksums, and more."""
    meta = read_meta(folder)
    kept = {key: value for key, value in meta.items() if key not in (*PROOFS, *without)}
    (folder / DATASET_FILE).write_text(json.dumps(kept))
    return folder


def prove_again(folder):
    """Describe the files as they lie there now, as though `prepare` had written them so."""
    meta = {key: value for key, value in read_meta(folder).items() if key not in PROOFS}
    sign(folder, {**meta, "files": MappedFiles(folder, meta).describe()})
