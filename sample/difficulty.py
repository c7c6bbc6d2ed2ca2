"""How hard the sample data set is: every number that decides it, in one place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Difficulty:
    """Shares are probabilities 0..1; ranges are (low, high), drawn evenly; lengths of time are shares of the video."""

    # the catalogue
    catalogue_only: float = 0.15  # items without a video (kind D)
    videos_without_item: float = 0.10  # videos of kind N for each video that shows an item
    plain: float = 0.3  # of the items have no sibling; the others share a family
    family_size: tuple[int, int] = (2, 3)
    family_kinds: tuple[float, float, float] = (0.3, 0.4, 0.3)  # colour-, print-, texture-siblings
    n_schemes: int = 8  # colour schemes that all families share: few schemes make colour a poor guide
    colours_swapped: float = 0.5  # colour-siblings that wear the same colours in other places

    # the product in the picture
    height: tuple[float, float] = (0.37, 0.60)  # of the frame's height
    largest_width: float = 0.86  # of the frame's width
    zoom: float = 0.14  # how much the size wobbles over time
    tilt_deg: float = 10.0
    perspective: float = 0.10
    yaw_deg: float = 24.0  # turns about the upright axis
    turned_round: float = 0.2  # videos in which the product shows its back for a while
    turned_length: tuple[float, float] = (0.15, 0.30)
    worn: float = 0.7  # videos of garments that are worn, not laid flat
    absent: float = 0.2  # videos in which the product leaves for a while
    absent_length: tuple[float, float] = (0.15, 0.35)
    replaced: float = 0.5  # of the absences another product is shown meanwhile

    # what is around it and in front of it
    distractors: tuple[int, int] = (0, 3)
    distractor_height: tuple[float, float] = (0.16, 0.32)
    distractor_from_catalogue: float = 0.0  # a video that shows a second item of the catalogue has two right answers, and one label
    hand: float = 0.4  # videos in which a hand passes in front
    hand_length: tuple[float, float] = (0.15, 0.30)
    banner: float = 0.75
    smallest_visible: float = 0.12  # a product of which less can be seen is not labelled

    # light and lens, in videos
    brightness: tuple[float, float] = (0.75, 1.12)
    contrast: tuple[float, float] = (0.80, 1.15)
    warmth: float = 0.13  # red gains and blue loses up to this share, or the reverse
    tint: float = 0.06  # green against magenta
    light_change: float = 0.4  # of brightness and warmth that comes and goes within the video
    coloured_light: float = 0.08  # difference between the left and the right side's light
    blurred: tuple[float, float] = (0.05, 0.20)  # of the frames are blurred
    blur_px: float = 2.2
    crf: int = 27  # libx264's constant rate factor

    # light of the photos, as shares of the video's
    photo_light: float = 0.45
