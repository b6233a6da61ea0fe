"""MOUNT version 3."""

import struct

import pytest
from exported import NO_HOST, READ_HOST, ROOT_HOST, WRITE_HOST, Exported
from nfs3_client import ACCES, MOUNT, NAMETOOLONG, NOENT, NOTDIR, Nfs3Client, Users, failed
from rpc_client import RpcError

from nfsgw.mount3 import DUMP_MAX


def test_an_export_is_mounted_by_its_path(world: Exported, root: Nfs3Client) -> None:
    handle = root.mount(b"/lab")
    assert root.getattr(handle).fsid == world.lab.id
    for path in (b"/lab/", b"//lab", b"/lab/.", b"/./lab//"):
        assert root.mount(path) == handle
    for path in (b"", b"/", b"lab", b"/none", b"/lab@none", b"/LAB", b"/la", b"/../lab", b"/\xff"):
        with failed(NOENT):
            root.mount(path)


def test_a_directory_below_an_export_is_mounted(root: Nfs3Client) -> None:
    lab = root.mount(b"/lab")
    inner = root.mkdir(root.mkdir(lab, b"vms").handle, b"web-1").handle
    root.create(inner, b"disk.qcow2")
    assert root.mount(b"/lab/vms/web-1") == inner == root.mount(b"//lab//vms/./web-1/")
    assert root.mount(b"/lab/vms/..") == lab == root.mount(b"/lab/../../..")
    with failed(NOTDIR):
        root.mount(b"/lab/vms/web-1/disk.qcow2")
    with failed(NOTDIR):
        root.mount(b"/lab/vms/web-1/disk.qcow2/x")
    with failed(NOENT):
        root.mount(b"/lab/vms/web-2")
    with failed(NAMETOOLONG):
        root.mount(b"/lab/" + b"n" * 256)
    root.symlink(lab, b"link", b"vms")
    with failed(NOTDIR):
        root.mount(b"/lab/link")


def test_snapshots_are_mounted_through_their_volume(world: Exported, root: Nfs3Client) -> None:
    snapshot = world.do(lambda: world.store.create_snapshot(world.lab, "mounted"))
    handle = root.mount(b"/lab/.snapshots/mounted")
    assert root.getattr(handle).fileid == snapshot.id << 40 | 1


def test_a_path_leads_only_where_its_user_may_go(root: Nfs3Client, user: Users) -> None:
    lab = root.mount(b"/lab")
    private = root.mkdir(lab, b"private", mode=0o700, uid=1000).handle
    inner = root.mkdir(private, b"inner", mode=0o777).handle
    assert user(1000, 1000).mount(b"/lab/private/inner") == inner
    for client in (user(1001, 1001), user(0, 0, host=WRITE_HOST), user(None)):
        with failed(ACCES):
            client.mount(b"/lab/private/inner")
    with failed(ACCES):
        user(0, 0, host=NO_HOST).mount(b"/lab")


def test_exports_are_shown_to_whom_they_are_for(user: Users) -> None:
    shown = {
        b"/lab": [ROOT_HOST.encode(), WRITE_HOST.encode(), READ_HOST.encode()],
        b"/other": [ROOT_HOST.encode(), WRITE_HOST.encode(), READ_HOST.encode()],
    }
    assert user(None, host=READ_HOST).exports() == user().exports() == shown
    assert user(0, 0, host=NO_HOST).exports() == {}


def test_mounts_are_listed_until_they_are_unmounted(user: Users) -> None:
    one, two = user(0, 0, host=WRITE_HOST), user(0, 0, host=READ_HOST)
    one.unmount_all()
    two.unmount_all()
    for client in (one, two):
        client.mount(b"/lab")
        client.mount(b"/other")
        client.mount(b"/lab")
    mine, others = WRITE_HOST.encode(), READ_HOST.encode()

    def listed():
        return [each for each in one.dump() if each[0] in (mine, others)]

    assert listed() == [
        (mine, b"/other"), (mine, b"/lab"), (others, b"/other"), (others, b"/lab"),
    ]  # fmt: skip
    one.unmount(b"/lab")
    one.unmount(b"/lab")
    two.unmount_all()
    assert listed() == [(mine, b"/other")]
    assert user(0, 0, host=NO_HOST).dump() == []


def test_the_list_of_mounts_is_bounded(root: Nfs3Client, user: Users) -> None:
    root.unmount_all()
    lab = root.mount(b"/lab")
    root.mkdir(lab, b"bounded")
    for slashes in range(DUMP_MAX // 4):
        for path in (b"/lab", b"/lab/bounded"):
            root.mount(path + b"/" * slashes)
            root.mount(b"/" * slashes + path + b"/.")
    assert len(root.dump()) <= DUMP_MAX
    assert root.dump()[-1][1] == b"/" * (DUMP_MAX // 4 - 1) + b"/lab/bounded/."
    root.unmount_all()
    assert root.dump() == []


def test_what_mount_does_not_have_and_cannot_read(root: Nfs3Client) -> None:
    root.rpc.call(MOUNT, 3, 0).end()
    with pytest.raises(RpcError, match="accepted 3"):
        root.rpc.call(MOUNT, 3, 6)
    with pytest.raises(RpcError, match=r"accepted 2 \(3, 3\)"):
        root.rpc.call(MOUNT, 1, 1)
    for arguments in (b"", struct.pack(">I", 1025) + bytes(1028), struct.pack(">I", 1 << 31)):
        with pytest.raises(RpcError, match="accepted 4"):
            root.rpc.call(MOUNT, 3, 1, arguments)
