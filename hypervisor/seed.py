"""The NoCloud seed: how a clone's guest learns who it is.

Source: cloud-init, "NoCloud" datasource: an ISO 9660 image labelled ``cidata`` with ``meta-data``
and ``user-data``, and ``network-config`` where one is given.  A new instance-id makes cloud-init
run its once-per-instance parts again, so the SSH host keys are made anew; the machine-id is written
before anything of the new instance asks for it.
"""

import io
import json
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from functools import lru_cache

import pycdlib

from engine import errors
from hypervisor.identity import Identity

USER_DATA_MAX = 1 << 20
SECTOR_BYTES = 2048
_KINDS = {"#cloud-config": "cloud-config", "#!": "x-shellscript", "## template: jinja": "jinja2"}


def meta_data(identity: Identity) -> str:
    """YAML whose values are JSON strings, which every YAML reader takes."""
    values = {
        "instance-id": identity.instance_id,
        "local-hostname": identity.hostname,
        "machine-id": identity.machine_id,
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())


def cloud_config(identity: Identity) -> str:
    """cloud-init's part that gives the guest its identity."""
    write_id = f"printf '%s\\n' {identity.machine_id} > /etc/machine-id"
    config = {
        "hostname": identity.hostname,
        "preserve_hostname": False,
        "ssh_deletekeys": True,
        "bootcmd": [
            ["cloud-init-per", "instance", "ramet-machine-id", "sh", "-c", write_id],
        ],
    }
    return "#cloud-config\n" + json.dumps(config, indent=1) + "\n"


def user_data(identity: Identity, extra: str | None) -> bytes:
    """Ours alone, or the user's and ours as the parts of one MIME document.

    Ours is the last and says how it is merged: what the user sets stays, lists (``bootcmd``) get
    our items put before theirs.  Source: cloud-init, "Merging user-data sections".
    """
    ours = cloud_config(identity)
    if extra is None:
        return ours.encode()
    if len(extra) > USER_DATA_MAX:
        raise errors.TooLarge(f"user-data of {len(extra)} characters; at most {USER_DATA_MAX}")
    subtype = next((kind for head, kind in _KINDS.items() if extra.startswith(head)), None)
    if subtype is None:
        raise errors.InvalidArgument("user-data must begin with #cloud-config or #!")
    both = MIMEMultipart(boundary="==ramet-parts==")
    both.attach(MIMEText(extra, subtype, "utf-8"))
    part = MIMEText(ours, "cloud-config", "utf-8")
    part["Merge-Type"] = "list(prepend)+dict(no_replace,recurse_list)+str()"
    both.attach(part)
    return both.as_bytes()


def build(identity: Identity, extra: str | None = None, network: str | None = None) -> bytes:
    """The ISO image."""
    files = {"meta-data": meta_data(identity).encode(), "user-data": user_data(identity, extra)}
    if network is not None:
        files["network-config"] = network.encode()
    image, places = _frame(tuple((name, len(data)) for name, data in files.items()))
    made = bytearray(image)
    for at, data in zip(places, files.values(), strict=True):
        made[at : at + len(data)] = data
    return bytes(made)


@lru_cache(maxsize=64)
def _frame(sizes: tuple[tuple[str, int], ...]) -> tuple[bytes, list[int]]:
    """An image with files of these sizes, and where their contents go.

    Everything but the contents depends on names and sizes alone, which a batch shares.
    """
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for n, (name, size) in enumerate(sizes):
        filler = io.BytesIO(bytes([n + 1]) * size)  # all differ: pycdlib stores equal files once
        iso.add_fp(filler, size, f"/FILE{n}.;1", rr_name=name, joliet_path=f"/{name}")
    out = io.BytesIO()
    iso.write_fp(out)
    places = [
        iso.get_record(rr_path=f"/{name}").extent_location() * SECTOR_BYTES for name, _ in sizes
    ]
    iso.close()
    return out.getvalue(), places
