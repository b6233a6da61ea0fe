"""The numbers of attributes, and sets of them: bitmap4 (RFC 8881, 3.3.7 and 5; RFC 7862, 12.2).

A set is an int, bit N for attribute N, so sets are cut and joined with & and |.
"""

import struct
from enum import IntEnum
from functools import lru_cache

from nfsgw.xdr import Packer, Unpacker

WORDS_MAX = 16  # three are in use; more of what nobody knows says nothing


class Attr(IntEnum):
    """Attributes by their number: what Ramet knows of."""

    SUPPORTED_ATTRS = 0
    TYPE = 1
    FH_EXPIRE_TYPE = 2
    CHANGE = 3
    SIZE = 4
    LINK_SUPPORT = 5
    SYMLINK_SUPPORT = 6
    NAMED_ATTR = 7
    FSID = 8
    UNIQUE_HANDLES = 9
    LEASE_TIME = 10
    RDATTR_ERROR = 11
    ACLSUPPORT = 13
    CANSETTIME = 15
    CASE_INSENSITIVE = 16
    CASE_PRESERVING = 17
    CHOWN_RESTRICTED = 18
    FILEHANDLE = 19
    FILEID = 20
    FILES_AVAIL = 21
    FILES_FREE = 22
    FILES_TOTAL = 23
    HOMOGENEOUS = 26
    MAXFILESIZE = 27
    MAXLINK = 28
    MAXNAME = 29
    MAXREAD = 30
    MAXWRITE = 31
    MODE = 33
    NO_TRUNC = 34
    NUMLINKS = 35
    OWNER = 36
    OWNER_GROUP = 37
    RAWDEV = 41
    SPACE_AVAIL = 42
    SPACE_FREE = 43
    SPACE_TOTAL = 44
    SPACE_USED = 45
    TIME_ACCESS = 47
    TIME_ACCESS_SET = 48
    TIME_CREATE = 50
    TIME_DELTA = 51
    TIME_METADATA = 52
    TIME_MODIFY = 53
    TIME_MODIFY_SET = 54
    MOUNTED_ON_FILEID = 55
    FS_LAYOUT_TYPES = 62
    MODE_SET_MASKED = 74
    SUPPATTR_EXCLCREAT = 75
    FS_CHARSET_CAP = 76
    CLONE_BLKSIZE = 77
    CHANGE_ATTR_TYPE = 79
    MODE_UMASK = 81  # RFC 8275
    XATTR_SUPPORT = 82  # RFC 8276


def bits(*attributes: Attr) -> int:
    """The set of some attributes."""
    return sum(1 << attribute for attribute in attributes)


def numbers_in(bitmap: int) -> list[int]:
    """The attributes of a set in the order of their values on the wire."""
    return [number for number in range(bitmap.bit_length()) if bitmap >> number & 1]


def read_bitmap(args: Unpacker) -> int:
    bitmap = 0
    for word in range(args.count(WORDS_MAX)):
        bitmap |= args.u32() << 32 * word
    return bitmap


@lru_cache(1024)
def packed_bitmap(bitmap: int) -> bytes:
    """A set on the wire, without empty words at its end."""
    words = -(-bitmap.bit_length() // 32)
    return struct.pack(f">I{words}I", words, *(bitmap >> 32 * n & 0xFFFFFFFF for n in range(words)))


def pack_bitmap(out: Packer, bitmap: int) -> None:
    out.raw(packed_bitmap(bitmap))
