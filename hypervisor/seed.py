"""The NoCloud seed: how a clone's guest learns who it is.

Source: cloud-init, "NoCloud" datasource: an ISO 9660 image labelled ``cidata`` with ``meta-data``
and ``user-data``.  A new instance-id makes cloud-init run its once-per-instance parts again, so the
SSH host keys are made anew; the machine-id is written before anything asks for it.
"""

import io
import json
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pycdlib

from engine import errors
from hypervisor.identity import Identity

USER_DATA_MAX = 1 << 20


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


def user_data(identity: Identity, extra: bytes | None) -> bytes:
    """Ours alone, or ours and the user's as the parts of one MIME document."""
    ours = cloud_config(identity)
    if extra is None:
        return ours.encode()
    if len(extra) > USER_DATA_MAX:
        raise errors.TooLarge(f"user-data of {len(extra)} bytes; at most {USER_DATA_MAX}")
    try:
        theirs = extra.decode()
    except UnicodeDecodeError:
        raise errors.InvalidArgument("user-data must be UTF-8 text") from None
    both = MIMEMultipart(boundary="==ramet-parts==")
    both.attach(MIMEText(ours, "cloud-config", "utf-8"))
    subtype = "cloud-config" if theirs.startswith("#cloud-config") else "x-shellscript"
    if subtype != "cloud-config" and not theirs.startswith("#!"):
        raise errors.InvalidArgument("user-data must begin with #cloud-config or #!")
    both.attach(MIMEText(theirs, subtype, "utf-8"))
    return both.as_bytes()


def build(identity: Identity, extra: bytes | None = None) -> bytes:
    """The ISO image."""
    files = {"meta-data": meta_data(identity).encode(), "user-data": user_data(identity, extra)}
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for n, (name, data) in enumerate(files.items()):
        iso.add_fp(
            io.BytesIO(data), len(data), f"/FILE{n}.;1", rr_name=name, joliet_path=f"/{name}"
        )
    out = io.BytesIO()
    iso.write_fp(out)
    iso.close()
    return out.getvalue()
