"""Pictures of stored instances, as browsers show them; those asked for last are kept."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from pydicom.uid import UID

from pacs_server.dicom.image_attributes import Attributes
from pacs_server.dicom.lut import Window
from pacs_server.dicom.picture import GIF, Appearance, encode, encode_animation
from pacs_server.dicom.rendering import Picture, render
from pacs_server.errors import FrameNotFound, ResourceLimitation, TooLarge, TranscodeError
from pacs_server.index.instances import StoredInstance
from pacs_server.kit.recent_bytes import RecentBytes
from pacs_server.services.frames import FrameService, OpenFrames

_FRAME_TIME, _CINE_RATE, _DISPLAY_RATE = 0x00181063, 0x00180040, 0x00082144
# Larger pictures are not made: they would need some 10 bytes a pixel.
_MAX_PIXELS: Final = 100_000_000
_MAX_KEPT: Final = 32 << 20
# So many instances in the middle of a study are tried until one can be shown.
_MOST_TRIED: Final = 10

_Key = tuple[str, str, int | None, Window | None, Appearance, bool]


class RenderingService:
    """Renders frames; may be shared by all threads. The caller sees to it that not too many do so at a time."""

    def __init__(self, frames: FrameService, *, keep: int = _MAX_KEPT) -> None:
        """`keep` is how many bytes of pictures are kept."""
        self._frames = frames
        self._kept: RecentBytes[bytes] = RecentBytes(keep)

    def picture(
        self, instance: StoredInstance, number: int | None, appearance: Appearance, window: Window | None = None
    ) -> bytes:
        """The picture of a frame, without a number of one from the middle; with `window` instead of its own.

        Whether the caller may see the instance was checked before. Raises FrameNotFound, TranscodeError if it cannot
        be shown, InvalidRequest, ResourceLimitation, StorageUnavailable.
        """
        key = _key(instance, number, window, appearance)

        def made() -> bytes:
            with self._frames.open(instance) as frames:
                chosen = (frames.count + 1) // 2 if number is None else number
                return encode(_rendered(frames, _attributes(frames), chosen, window), appearance)

        return self._kept_or(key, made)

    def animation(self, instance: StoredInstance, appearance: Appearance, window: Window | None = None) -> bytes:
        """All frames of an instance as one GIF; raises as `picture`."""
        key = _key(instance, None, window, replace(appearance, media_type=GIF), animated=True)

        def made() -> bytes:
            with self._frames.open(instance) as frames:
                if frames.map.image.rows * frames.map.image.columns * frames.count > _MAX_PIXELS:
                    raise TooLarge("the frames together are too large for one GIF")
                data_set = _attributes(frames)
                pictures = (_rendered(frames, data_set, n, window) for n in range(1, frames.count + 1))
                return encode_animation(pictures, _milliseconds(data_set), appearance)

        return self._kept_or(key, made)

    def frame_count(self, instance: StoredInstance) -> int:
        """The number of frames; raises FrameNotFound if there are none, and as `picture`."""
        with self._frames.open(instance) as frames:
            return frames.count

    def representative(self, instances: Sequence[StoredInstance]) -> StoredInstance:
        """An instance that stands for all of them: an image from the middle. Raises FrameNotFound if there is none."""
        error: Exception = FrameNotFound("there is nothing here that can be shown")
        for instance in _from_the_middle(instances):
            try:
                with self._frames.open(instance) as frames:
                    _check(frames)
                return instance
            except (FrameNotFound, TranscodeError, ResourceLimitation) as failure:
                error = failure
        raise FrameNotFound(str(error))

    def _kept_or(self, key: _Key, made: Callable[[], bytes]) -> bytes:
        if (kept := self._kept.get(key)) is not None:
            return kept
        data = made()
        self._kept.put(key, data)
        return data


def _key(
    instance: StoredInstance, number: int | None, window: Window | None, appearance: Appearance, animated: bool = False
) -> _Key:
    return instance.digest, instance.transfer_syntax_uid, number, window, appearance, animated


def _attributes(frames: OpenFrames) -> Attributes:
    return Attributes.of(frames.header(), frames.instance.transfer_syntax_uid)


def _check(frames: OpenFrames) -> None:
    if frames.map.image.rows * frames.map.image.columns > _MAX_PIXELS:
        raise TooLarge("a frame of this instance is too large to be shown")


def _rendered(frames: OpenFrames, data_set: Attributes, number: int, window: Window | None) -> Picture:
    _check(frames)
    return render(frames.pixels(number), frames.map.image, data_set, number, window)


def _milliseconds(data_set: Attributes) -> float:
    """How long a frame is shown (PS3.3 C.7.6.5): 100 ms if nothing says."""
    if (time := data_set.number(_FRAME_TIME)) and time > 0:
        return time
    rate = data_set.number(_DISPLAY_RATE) or data_set.number(_CINE_RATE) or 10.0
    return 1000 / rate if rate > 0 else 100.0


def _from_the_middle(instances: Sequence[StoredInstance]) -> Iterator[StoredInstance]:
    """Those whose SOP class is one of images, the middle one first; then others, as theirs may hold pixels as well."""
    shown = {uid for uid in {each.sop_class_uid for each in instances} if "Image" in UID(uid).name}
    for wanted in (True, False):
        group = [each for each in instances if (each.sop_class_uid in shown) == wanted]
        middle = (len(group) - 1) // 2
        near = range(max(0, middle - _MOST_TRIED // 2), min(len(group), middle + _MOST_TRIED // 2))
        yield from (group[at] for at in sorted(near, key=lambda at: abs(at - middle)))
