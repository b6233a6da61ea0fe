"""All that a user asks of `vm clone`, in one struct that travels as a plain dict.

The command line fills it in, RPC and a job's record carry it unchanged (``to_dict``, ``of``);
``service.clone_plan`` says which VMs it asks for.
"""

from typing import Any, Literal

import msgspec

from engine import errors

ON_ERROR = ("undo", "stop", "continue")


class CloneSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """``count`` None: one for each of ``rows``, or one.  Sizes in bytes; None: as in the base.

    ``on_error``: what one that fails means for the others (``service.vm_batch``).
    ``via``: where the domain XML comes from, the base's directory (file) or libvirt (api).
    ``user_data``, ``network``: templates (``hypervisor.template``).  ``quiesce``: freeze the file
    systems of a running base by its guest agent while it is copied.
    """

    count: int | None = None
    start: int = 1
    step: int = 1
    rows: list[dict[str, bool | int | str]] = []
    user_data: str | None = None
    network: str | None = None
    memory_bytes: int | None = None
    vcpus: int | None = None
    disk_bytes: int | None = None
    virt_type: str | None = None
    via: Literal["file", "api"] = "file"
    register: bool = False
    power_on: bool = False
    quiesce: bool = False
    on_error: Literal["undo", "stop", "continue"] = "undo"
    uri: str = "qemu:///system"

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "CloneSpec":
        """InvalidArgument for what is none."""
        try:
            return msgspec.convert(plain, cls)
        except msgspec.ValidationError as error:
            raise errors.InvalidArgument(f"no clone specification: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made

    @property
    def registers(self) -> bool:
        """What shall be powered on has to be registered."""
        return self.register or self.power_on
