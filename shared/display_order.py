"""What H.264 and HEVC say in the headers of their pictures: where each stands in display order, whether others refer to it, and
where decoding can begin. It is all that is needed to leave pictures out without losing count of them.

Rec. ITU-T H.264 clauses 7.3 (syntax), 8.2.1 (picture order count), C.4 (output order) and H.265 clauses 7.3, 8.3.1, C.5. What
these headers do not settle, or what no encoder in use does, raises `Unclear`: such a video is to be decoded whole.
"""

import bisect
import collections
import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import av

SLICE_HEADER_BYTES = 48  # more than any part of a slice's header that is read here
MARGIN = 32  # pictures that are looked at beyond one: no stream reorders more than 16


class Unclear(Exception):
    """The place of the pictures in display order cannot be told without decoding them."""


@dataclass(slots=True)
class Header:
    """What a picture says of itself."""

    order: int  # picture order count: rises in display order up to the next picture that starts anew
    starts: bool  # nothing after it in decoding order refers to anything before it, nor is shown before it
    referred: bool  # others may be decoded from it
    reorders: int | None  # of so many pictures at most the order changes around any picture; None: it does not say


@dataclass(slots=True)
class Sequence:
    """Pictures from one that starts anew up to the next."""

    end: int | None = None  # display index of the first picture of the next sequence; None: not known yet


@dataclass(slots=True, order=True)
class Picture:
    order: int
    header: Header = field(compare=False)
    packet: av.Packet = field(compare=False)
    sequence: Sequence = field(compare=False)
    index: int | None = field(compare=False, default=None)  # in display order; None: not shown
    settled: bool = field(compare=False, default=False)  # the index is known


def place_pictures(
    packets: Iterable[av.Packet], read_header: Callable[[bytes], Header], last: int, most_pictures: int, most_bytes: int
) -> Iterator[Picture]:
    """The packets' pictures in decoding order, with their places in display order.

    It looks ahead over most_pictures (or most_bytes) pictures, and not beyond display index `last`. Raises Unclear where a
    picture's header, the order of pictures that the headers tell, and the packets' presentation times do not agree.
    """
    window: collections.deque[Picture] = collections.deque()
    waiting: list[Picture] = []  # a heap: those whose place is not settled, the next one first
    sequence, n_shown, before, n_bytes = None, 0, None, 0

    def settle(n_left: int) -> None:
        """Gives the pictures that come next their index until n_left wait."""
        nonlocal n_shown, before
        while len(waiting) > n_left:
            picture = heapq.heappop(waiting)
            if before is not None and (
                picture.packet.pts <= before.packet.pts or (picture.sequence is before.sequence and picture <= before)
            ):
                raise Unclear("the pictures' order is not that of their times")
            before, picture.settled = picture, True
            if not picture.packet.is_discard:
                picture.index = n_shown
                n_shown += 1

    for packet in packets:
        if not packet.size:  # the end
            break
        if packet.pts is None or packet.is_corrupt or packet.has_sidedata("new_extradata"):
            raise Unclear("a packet without a time, with other parameters, or damaged")
        header = read_header(bytes(packet))
        if header.starts:
            settle(0)
            if sequence:
                sequence.end = n_shown
            sequence = Sequence()
        elif sequence is None:
            raise Unclear("the video does not begin with a picture where decoding can begin")
        picture = Picture(header.order, header, packet, sequence)
        heapq.heappush(waiting, picture)
        settle(header.reorders or 0)
        window.append(picture)
        n_bytes += packet.size
        while len(window) > (MARGIN if n_bytes > most_bytes else most_pictures):
            if not window[0].settled:
                raise Unclear("a picture is shown too long after its decoding")
            n_bytes -= window[0].packet.size
            yield window.popleft()
        if n_shown > last + MARGIN:
            break
    settle(0)
    if sequence and sequence.end is None:
        sequence.end = n_shown
    yield from window


def pictures_to_decode(pictures: Iterable[Picture], wanted: set[int]) -> Iterator[Picture]:
    """Of `place_pictures`' pictures those that the wanted ones (display indices) need: themselves, and up to the last of them in
    a sequence all that are referred to. Ends with the last wanted one."""
    left = sorted(-index for index in wanted)  # the next one last
    for picture in pictures:
        if picture.index in wanted:
            del left[bisect.bisect_left(left, -picture.index)]
            yield picture
        elif picture.header.referred and (picture.sequence.end is None or -left[-1] < picture.sequence.end):
            yield picture
        if not left:
            return


class Bits:
    """Reads the bits of a unit, from whose bytes the emulation prevention is taken out."""

    def __init__(self, data: bytes):
        data = data.replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(data), 8 * len(data)

    def u(self, n_bits: int) -> int:
        self._left -= n_bits
        if self._left < 0:
            raise Unclear("a header ends early")
        return (self._value >> self._left) & ((1 << n_bits) - 1)

    def ue(self) -> int:
        """Exp-Golomb code, unsigned."""
        n_zeros = self._left - (self._value & ((1 << self._left) - 1)).bit_length()
        if n_zeros > 32:
            raise Unclear("a number is too long")
        self.u(n_zeros)
        return self.u(n_zeros + 1) - 1

    def se(self) -> int:
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def split_units(data: bytes, length_bytes: int) -> list[bytes]:
    """NAL units of a packet: each after its length, or with length_bytes 0 after a start code."""
    if not length_bytes:
        before, *units = data.split(b"\0\0\1")
        if before.strip(b"\0") or not units:
            raise Unclear("the packet does not begin with a start code")
        if not all(units):
            raise Unclear("an empty unit")
        return units
    units, place = [], 0
    while place < len(data):
        start = place + length_bytes
        place = start + int.from_bytes(data[place:start])
        if place > len(data) or place == start:
            raise Unclear("a unit's length does not fit")
        units.append(data[start:place])
    return units


def avc_configuration(extradata: bytes) -> tuple[int, list[bytes]]:
    """The bytes of a unit's length (0: start codes) and the parameter sets of H.264's extradata, ISO/IEC 14496-15's avcC or units."""
    if extradata[:1] != b"\1":
        return 0, split_units(extradata, 0) if extradata else []
    bits, units = _Bytes(extradata[4:]), []
    length_bytes = (bits.number(1) & 3) + 1
    for mask in (31, 255):  # sequence and picture parameter sets
        units += [bits.take(bits.number(2)) for _ in range(bits.number(1) & mask)]
    return length_bytes, units


def hevc_configuration(extradata: bytes) -> tuple[int, list[bytes]]:
    """As `avc_configuration`, of HEVC's extradata: hvcC or units."""
    if extradata[:1] != b"\1":
        return 0, split_units(extradata, 0) if extradata else []
    bits, units = _Bytes(extradata[21:]), []
    length_bytes = (bits.number(1) & 3) + 1
    for _ in range(bits.number(1)):
        bits.number(1)
        units += [bits.take(bits.number(2)) for _ in range(bits.number(2))]
    return length_bytes, units


class _Bytes:
    def __init__(self, data: bytes):
        self._data, self._place = data, 0

    def take(self, n_bytes: int) -> bytes:
        self._place += n_bytes
        if not n_bytes or self._place > len(self._data):
            raise Unclear("the extradata end early")
        return self._data[self._place - n_bytes : self._place]

    def number(self, n_bytes: int) -> int:
        return int.from_bytes(self.take(n_bytes))


@dataclass(frozen=True)
class H264Sequence:
    frame_num_bits: int
    order_bits: int  # of the order count's lower part; 0: type 2, display order is decoding order
    reorders: int | None


class H264Headers:
    """Headers of one H.264 stream; `read` takes its packets in decoding order."""

    def __init__(self, extradata: bytes):
        self._sets: dict[tuple[int, int], bytes] = {}  # (unit type, id) -> the parameter set as it was sent
        self._sequences: dict[int, H264Sequence] = {}
        self._pictures: dict[
            int, tuple[int, bool]
        ] = {}  # picture parameter set -> (its sequence's, whether bottom fields)
        self._reference = (0, 0)  # higher and lower part of the last reference picture's order count
        self._frame_num = (0, 0)  # offset and number of the last picture
        self._begun = False
        self._length_bytes, units = avc_configuration(extradata)
        for unit in units:
            self._parameters(unit)

    def read(self, data: bytes) -> Header:
        header = None
        for unit in split_units(data, self._length_bytes):
            match unit[0] & 31:
                case 1 | 5:
                    bits = Bits(unit[1:SLICE_HEADER_BYTES])
                    if bits.ue():  # a further slice of the picture
                        if header is None:
                            raise Unclear("a picture's first slice is missing")
                    elif header:
                        raise Unclear("two pictures in one packet")
                    else:
                        header = self._slice(unit[0], bits)
                case 7 | 8:
                    self._parameters(unit)
                case 6 | 9 | 12:  # supplementary information, delimiter, filler
                    pass
                case _:
                    raise Unclear("units that a plain stream does not have")
        if header is None:
            raise Unclear("a packet without a picture")
        self._begun = True
        return header

    def _slice(self, head: int, bits: Bits) -> Header:
        """A slice's header after first_mb_in_slice."""
        starts, referred = head & 31 == 5, bool(head >> 5 & 3)
        bits.ue()  # slice_type
        sequence_id, bottom = self._known(self._pictures, bits.ue())
        sequence = self._known(self._sequences, sequence_id)
        number = bits.u(sequence.frame_num_bits)
        if starts:
            bits.ue()  # idr_pic_id
            self._reference = self._frame_num = (0, 0)
        order = below = 0
        if sequence.order_bits:
            lower = bits.u(sequence.order_bits)
            below = min(0, bits.se()) if bottom else 0
            higher = higher_part(lower, *self._reference, 1 << sequence.order_bits)
            order = higher + lower
            if referred:
                self._reference = (higher, lower)
        else:
            offset, before = self._frame_num
            offset += (1 << sequence.frame_num_bits) * (before > number)
            self._frame_num = (offset, number)
            order = 2 * (offset + number) - (not referred)
        if starts and bits.u(1):
            raise Unclear("pictures are to be dropped before they are shown")
        return Header(order + below, starts, referred, sequence.reorders)

    @staticmethod
    def _known(sets: dict, number: int):
        if number not in sets:
            raise Unclear("a picture without its parameters")
        return sets[number]

    def _parameters(self, unit: bytes) -> None:
        unit = unit.rstrip(b"\0") or b"\0"
        kind, bits = unit[0] & 31, Bits(unit[1:])
        if kind == 7:
            profile = bits.u(8)
            bits.u(16)
        elif kind != 8:
            return
        number = bits.ue()
        if self._sets.get((kind, number)) == unit:
            return
        if self._begun:
            raise Unclear("parameters change within the video")
        self._sets[kind, number] = unit
        if kind == 7:
            self._sequences[number] = _h264_sequence(profile, bits)
        else:
            self._pictures[number] = _h264_picture(bits)


def higher_part(lower: int, higher_before: int, lower_before: int, size: int) -> int:
    """The higher part of an order count whose lower part, modulo size, is nearest to that before (H.264 8-3, H.265 8-1)."""
    if lower < lower_before and lower_before - lower >= size // 2:
        return higher_before + size
    if lower > lower_before and lower - lower_before > size // 2:
        return higher_before - size
    return higher_before


def _h264_picture(bits: Bits) -> tuple[int, bool]:
    """A picture parameter set after its id: its sequence parameter set's id, whether slices tell the bottom field's order."""
    sequence = bits.ue()
    bits.u(1)
    bottom = bool(bits.u(1))
    if bits.ue():
        raise Unclear("slice groups")
    bits.ue()
    bits.ue()
    bits.u(3)
    for _ in range(3):
        bits.se()
    bits.u(2)
    if bits.u(1):
        raise Unclear("redundant pictures")
    return sequence, bottom


def _h264_sequence(profile: int, bits: Bits) -> H264Sequence:
    """A sequence parameter set after its id."""
    if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
        chroma = bits.ue()
        if chroma == 3 and bits.u(1):
            raise Unclear("colour planes apart")
        bits.ue()
        bits.ue()
        bits.u(1)
        if bits.u(1):
            for k in range(12 if chroma == 3 else 8):
                if bits.u(1):
                    _pass_scaling_list(bits, 16 if k < 6 else 64)
    frame_num_bits = bits.ue() + 4
    order_type = bits.ue()
    if order_type == 1:
        raise Unclear("an order count that no encoder in use writes")
    order_bits = bits.ue() + 4 if order_type == 0 else 0
    bits.ue()
    if bits.u(1):
        raise Unclear("frame numbers with gaps")
    bits.ue()
    bits.ue()
    if not bits.u(1):
        raise Unclear("fields")
    bits.u(1)
    if bits.u(1):
        for _ in range(4):
            bits.ue()
    reorders = _h264_reorders(bits) if bits.u(1) else None
    return H264Sequence(frame_num_bits, order_bits, reorders if order_bits else 0)


def _pass_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _h264_reorders(bits: Bits) -> int | None:
    """max_num_reorder_frames of the video usability information."""
    if bits.u(1) and bits.u(8) == 255:
        bits.u(32)
    if bits.u(1):
        bits.u(1)
    if bits.u(1):
        bits.u(4)
        if bits.u(1):
            bits.u(24)
    if bits.u(1):
        bits.ue()
        bits.ue()
    if bits.u(1):
        bits.u(65)
    timed = False
    for _ in range(2):  # hypothetical reference decoders
        if bits.u(1):
            timed = True
            count = bits.ue() + 1
            bits.u(8)
            for _ in range(count):
                bits.ue()
                bits.ue()
                bits.u(1)
            bits.u(20)
    if timed:
        bits.u(1)
    bits.u(1)
    if not bits.u(1):
        return None
    bits.u(1)
    for _ in range(4):
        bits.ue()
    return bits.ue()


@dataclass(frozen=True)
class HevcSequence:
    order_bits: int
    reorders: int
    highest_layer: int  # temporal
    colour_planes: bool  # apart


class HevcHeaders:
    """Headers of one HEVC stream; `read` takes its packets in decoding order."""

    def __init__(self, extradata: bytes):
        self._sets: dict[tuple[int, int], bytes] = {}
        self._sequences: dict[int, HevcSequence] = {}
        self._pictures: dict[int, tuple[int, bool, int]] = {}  # sequence's id, output flag, extra bits of slices
        self._reference = (0, 0)
        self._begun = False
        self._length_bytes, units = hevc_configuration(extradata)
        for unit in units:
            self._parameters(unit)

    def read(self, data: bytes) -> Header:
        header = None
        for unit in split_units(data, self._length_bytes):
            kind = unit[0] >> 1 & 63
            if len(unit) < 3 or (unit[0] & 1) << 5 | unit[1] >> 3:
                raise Unclear("layers")
            match kind:
                case 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 19 | 20 | 21:
                    bits = Bits(unit[2:SLICE_HEADER_BYTES])
                    if not bits.u(1):
                        if header is None:
                            raise Unclear("a picture's first slice is missing")
                    elif header:
                        raise Unclear("two pictures in one packet")
                    else:
                        header = self._slice(kind, (unit[1] & 7) - 1, bits)
                case 33 | 34:
                    self._parameters(unit)
                case 32 | 35 | 38 | 39 | 40:  # video parameters, delimiter, filler, supplementary information
                    pass
                case _:
                    raise Unclear("units that a plain stream does not have")
        if header is None:
            raise Unclear("a packet without a picture")
        self._begun = True
        return header

    def _slice(self, kind: int, layer: int, bits: Bits) -> Header:
        """A slice's header after first_slice_segment_in_pic_flag."""
        starts = kind in (19, 20)
        if kind >= 16 and bits.u(1):
            raise Unclear("pictures are to be dropped before they are shown")
        sequence_id, output_flag, n_extra = H264Headers._known(self._pictures, bits.ue())
        sequence = H264Headers._known(self._sequences, sequence_id)
        bits.u(n_extra)
        bits.ue()  # slice_type
        if output_flag and not bits.u(1):
            raise Unclear("a picture that is not shown")
        if sequence.colour_planes:
            bits.u(2)
        order = 0
        if starts:
            self._reference = (0, 0)
        else:
            lower = bits.u(sequence.order_bits)
            higher = higher_part(lower, *self._reference, 1 << sequence.order_bits)
            order = higher + lower
            if layer == 0 and (kind in (1, 3, 5) or kind == 21):
                self._reference = (higher, lower)
        referred = not (kind < 10 and kind % 2 == 0 and layer == sequence.highest_layer)
        return Header(order, starts, referred, sequence.reorders)

    def _parameters(self, unit: bytes) -> None:
        unit = unit.rstrip(b"\0") or b"\0"
        kind, bits = unit[0] >> 1 & 63, Bits(unit[2:])
        if kind == 33:
            bits.u(4)
            highest_layer = bits.u(3)
            bits.u(1)
            _pass_profile(bits, highest_layer)
        elif kind != 34:
            return
        number = bits.ue()
        if self._sets.get((kind, number)) == unit:
            return
        if self._begun:
            raise Unclear("parameters change within the video")
        self._sets[kind, number] = unit
        if kind == 33:
            self._sequences[number] = _hevc_sequence(highest_layer, bits)
        else:
            sequence = bits.ue()
            bits.u(1)
            self._pictures[number] = sequence, bool(bits.u(1)), bits.u(3)


def _pass_profile(bits: Bits, highest_layer: int) -> None:
    bits.u(96)
    if highest_layer:
        present = [(bits.u(1), bits.u(1)) for _ in range(highest_layer)]
        bits.u(2 * (8 - highest_layer))
        for profile, level in present:
            bits.u(88 * profile + 8 * level)


def _hevc_sequence(highest_layer: int, bits: Bits) -> HevcSequence:
    """A sequence parameter set after its id."""
    planes = bits.ue() == 3 and bool(bits.u(1))
    bits.ue()
    bits.ue()
    if bits.u(1):
        for _ in range(4):
            bits.ue()
    bits.ue()
    bits.ue()
    order_bits = bits.ue() + 4
    each = bits.u(1)
    reorders = 0
    for _ in range(highest_layer + 1 if each else 1):
        bits.ue()
        reorders = bits.ue()
        bits.ue()
    return HevcSequence(order_bits, reorders, highest_layer, planes)


HEADERS = {"h264": H264Headers, "hevc": HevcHeaders}
