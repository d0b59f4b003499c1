"""Train the check that tells frontal chest X-rays from everything else by their pixels: medlip/images/frontal.safetensors.

    python examples/frontal_check/train.py --kermany DIR --covid DIR --out frontal.safetensors

Frontal chest X-rays: phantoms, every second paediatric X-ray of `kermany` (CC BY 4.0), frontal films of the
covid-chestxray-dataset whose licence is CC BY; each also cropped, stretched, framed, toned and slightly turned.

Everything else: the sample pictures of scikit-image, scikit-learn and matplotlib; the CT and MR slices, and pictures, of
pydicom's own test files; MR volumes of nibabel's tests, if it is installed; what is drawn here: text, plots, faces of noise,
slices of bodies, ultrasound fans, limbs with bones, chests from the side; and the frontal films turned, inverted, or cut so
far that no chest is left.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from safetensors.numpy import save_file
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from medlip.errors import MedLIPError
from medlip.images.frontal import SIDE, SURE, FrontalModel, features
from medlip.images.read import read_image
from medlip.phantom import phantom

Pixels = NDArray[np.uint8]
COMPONENTS = 40
PHANTOMS = 500
DRAWN = 300  # of each kind of picture that is drawn here
SHOTS = 4  # of each film and picture, changed by chance


def main() -> None:
    """Train, say how well it does on what was kept back, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kermany", type=Path, required=True, help="folder with images/ of the Kermany X-rays")
    parser.add_argument("--covid", type=Path, required=True, help="folder of the covid-chestxray-dataset with metadata.csv")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    films = list(chests(options.kermany, options.covid))
    others = [*sample_pictures(), *(draw(rng) for draw in DRAWINGS for _ in range(DRAWN))]
    shown = [changed(film, rng) for film in films for _ in range(SHOTS)]
    hidden = [spoilt(film, rng) for film in films for _ in range(SHOTS)]
    hidden += [changed(cut(other, rng), rng) for other in others for _ in range(SHOTS if len(other) > 300 else 1)]
    print(f"{len(films)} films, {len(others)} other pictures; {len(shown)} and {len(hidden)} examples")
    inputs = np.array([features(pixels) for pixels in [*shown, *hidden]])
    truth = np.array([1] * len(shown) + [0] * len(hidden))
    model = fit(inputs, truth)
    scores = np.array([model.score(row) for row in inputs])
    print(f"of these, missed {np.mean(scores[truth == 1] < SURE):.4f}, taken {np.mean(scores[truth == 0] >= SURE):.4f}")
    save(model, options.out)


def save(model: FrontalModel, out: Path) -> None:
    """Write a model as `medlip.images.frontal` reads it."""
    parts = {name: getattr(model, name).astype(np.float32) for name in ("mean", "scale", "weights")}
    parts["components"] = model.components.astype(np.float16)
    save_file(parts | {"bias": np.array([model.bias], np.float32)}, out)


def fit(inputs: NDArray[np.float64], truth: NDArray[np.int64]) -> FrontalModel:
    """Return the model of features (N, F) and what they are of, (N,)."""
    mean, scale = inputs.mean(0), inputs.std(0) + 1e-6
    scale[: SIDE**2] = scale[: SIDE**2].mean()
    scaled = ((inputs - mean) / scale).clip(-6, 6)
    components = PCA(COMPONENTS, whiten=True, random_state=0).fit(scaled[truth == 1])
    turned = (components.components_ / np.sqrt(components.explained_variance_)[:, None]).T
    blank = FrontalModel(mean, scale, turned, np.zeros(0), 0.0)
    found = blank.inputs(inputs)
    spread = found.std(0) + 1e-9
    linear = LogisticRegression(C=1.0, class_weight="balanced", max_iter=2000).fit(found / spread, truth)
    return FrontalModel(mean, scale, turned, linear.coef_[0] / spread, float(linear.intercept_[0]))


def chests(kermany: Path, covid: Path) -> Iterator[Pixels]:
    """Yield frontal chest X-rays that may be used: phantoms, every second one of `kermany`, CC BY ones of `covid`."""
    for index in range(PHANTOMS):
        yield phantom(index, seed=77).views[0].image
    for path in sorted((kermany / "images").iterdir())[::2]:
        yield read_image(path)
    with (covid / "metadata.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            free = row["license"] in ("CC BY", "CC BY 3.0", "CC BY 4.0")
            if free and row["view"] in ("PA", "AP", "AP Supine"):
                yield read_image(covid / "images" / row["file"])


def sample_pictures() -> Iterator[Pixels]:
    """Yield the sample pictures of installed packages."""
    import matplotlib
    import pydicom
    import skimage
    import sklearn

    folders = [Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets" / "images"]
    folders += [Path(matplotlib.__file__).parent / "mpl-data" / "sample_data", Path(matplotlib.__file__).parent / "mpl-data"]
    for path in (path for folder in folders for path in sorted(folder.rglob("*.[jp][pn]g"))):
        picture = Image.open(path).convert("L")
        if min(picture.size) >= 64:
            yield np.array(picture)
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")):
        try:
            yield read_image(path)
        except MedLIPError:  # holds no image
            continue
    try:
        import nibabel
    except ImportError:
        return
    for path in sorted((Path(nibabel.__file__).parent / "tests" / "data").glob("*.nii*")):
        try:
            volume = np.asarray(nibabel.load(path).dataobj, float)
        except Exception:
            continue
        volume = volume[..., 0] if volume.ndim == 4 else volume
        for axis in range(volume.ndim if volume.ndim == 3 else 0):
            for share in (0.35, 0.45, 0.5, 0.55, 0.65):
                part = np.rot90(np.take(volume, int(share * volume.shape[axis]), axis))
                if min(part.shape) >= 16 and np.ptp(part) > 0:
                    yield np.uint8(255 * (part - part.min()) / np.ptp(part))


def text_page(rng: np.random.Generator) -> Pixels:
    """Draw a page of text, dark on light or light on dark, sometimes with a frame or a table."""
    page = Image.new("L", (int(rng.integers(200, 400)), int(rng.integers(200, 400))), int(rng.integers(200, 256)))
    draw = ImageDraw.Draw(page)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz      "))
    for line in range(8, page.height - 12, int(rng.integers(11, 22))):
        if rng.random() < 0.85:
            draw.text((rng.integers(5, 40), line), "".join(rng.choice(letters, rng.integers(5, page.width // 6))), fill=20)
    for _ in range(rng.integers(0, 5)):
        x, y = rng.integers(0, page.width), rng.integers(0, page.height)
        draw.rectangle((x, y, x + rng.integers(10, 150), y + rng.integers(10, 100)), outline=int(rng.integers(0, 150)))
    return np.array(ImageOps.invert(page) if rng.random() < 0.3 else page)


def plot(rng: np.random.Generator) -> Pixels:
    """Draw curves or bars between axes."""
    side = int(rng.integers(200, 400))
    page = Image.new("L", (side, int(side * rng.uniform(0.6, 1.2))), 255)
    draw = ImageDraw.Draw(page)
    low = page.height - 20
    draw.line((20, 5, 20, low), fill=0)
    draw.line((20, low, side - 5, low), fill=0)
    for _ in range(rng.integers(1, 5)):
        across = np.linspace(20, side - 5, 60)
        up = low / 2 + np.cumsum(rng.normal(0, low / 40, 60))
        if rng.random() < 0.4:
            for x, y in zip(across[::4], up[::4], strict=True):
                draw.rectangle((x, min(y, low), x + 6, low), fill=int(rng.integers(0, 200)))
        else:
            draw.line(list(zip(across, up, strict=True)), fill=int(rng.integers(0, 180)), width=int(rng.integers(1, 4)))
    return np.array(page)


def clouds(rng: np.random.Generator) -> Pixels:
    """Draw noise of any smoothness."""
    side = 256
    spectrum = rng.normal(size=(side, side)) + 1j * rng.normal(size=(side, side))
    far = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side))) + 1 / side
    return _grey(np.fft.ifft2(spectrum / far ** rng.uniform(0, 2.5)).real)


def scene(rng: np.random.Generator) -> Pixels:
    """Draw overlapping shapes before a gradient, as photographs have them."""
    side = 256
    page = Image.fromarray(_grey(_grid(side)[0] * rng.normal() + _grid(side)[1] * rng.normal()))
    draw = ImageDraw.Draw(page)
    for _ in range(rng.integers(3, 25)):
        x, y = rng.integers(0, side, 2)
        w, h = rng.integers(10, 140, 2)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x - w, y - h, x + w, y + h), fill=int(rng.integers(0, 256)))
    return _grained(np.array(page.filter(ImageFilter.GaussianBlur(rng.uniform(0, 3)))), rng)


def body_slice(rng: np.random.Generator) -> Pixels:
    """Draw a slice of a trunk or a head as CT and MR show them: an oval with organs, before black."""
    side = 256
    page = Image.new("L", (side, side), int(rng.integers(0, 12)))
    draw = ImageDraw.Draw(page)
    wide, high = rng.uniform(70, 122), rng.uniform(50, 120)

    def oval(x: float, y: float, a: float, b: float, fill: float) -> None:
        x, y = 128 + x * wide, 128 + y * high
        draw.ellipse((x - a * wide, y - b * high, x + a * wide, y + b * high), fill=int(np.clip(fill, 0, 255)))

    rim, inside = rng.uniform(60, 255), rng.uniform(50, 190)
    oval(0, 0, 1, 1, rim)
    oval(0, 0, 0.93, 0.91, inside)
    if rng.random() < 0.4:  # lungs
        for sign in (-1, 1):
            oval(sign * rng.uniform(0.4, 0.5), rng.uniform(-0.15, 0.1), 0.36, rng.uniform(0.5, 0.7), rng.uniform(5, 40))
    for _ in range(rng.integers(3, 14)):
        where = rng.uniform(-0.6, 0.6, 2)
        oval(*where, *rng.uniform(0.05, 0.35, 2), inside + rng.normal(0, 45))
    oval(0, rng.uniform(0.55, 0.7), 0.14, 0.14, rng.uniform(150, 255))
    return _grained(np.array(page.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))), rng)


def ultrasound(rng: np.random.Generator) -> Pixels:
    """Draw a fan of speckle."""
    y, x = _grid(256)
    apex, opening = rng.uniform(-0.3, 0.05), rng.uniform(0.4, 0.9)
    far, angle = np.hypot(x - 0.5, y - apex), np.arctan2(x - 0.5, y - apex)
    fan = (np.abs(angle) < opening) & (far < rng.uniform(0.85, 1.2)) & (far > rng.uniform(0.05, 0.35))
    bright = np.exp(-far * rng.uniform(0, 2)) * (1 + 0.5 * np.sin(far * rng.uniform(5, 25) + angle * rng.uniform(-4, 4)))
    bright = bright * Image.fromarray(rng.rayleigh(1, (64, 64)).astype(np.float32)).resize((256, 256))
    return _grey(np.where(fan, bright + 0.05, 0))


def limb(rng: np.random.Generator) -> Pixels:
    """Draw bones within soft tissue before black: ankles, knees, hands, arms."""
    side = 320
    page = Image.new("L", (side, side), int(rng.integers(0, 25)))
    draw = ImageDraw.Draw(page)
    tissue, bone = int(rng.integers(60, 130)), int(rng.integers(150, 250))
    bends = rng.uniform(90, 230, 3)
    middle = [(float(x), float(y)) for x, y in zip(bends, (-20, side / 2, side + 20), strict=True)]
    draw.line(middle, fill=tissue, width=int(rng.integers(90, 200)), joint="curve")
    count = int(rng.integers(1, 6))
    for number in range(count):
        shift = (number - (count - 1) / 2) * rng.uniform(18, 34)
        line = [(x + shift, y) for x, y in middle]
        if rng.random() < 0.7:  # a joint
            gap = rng.uniform(-30, 30)
            (x, y) = line[1]
            draw.line([line[0], (x, y + gap - 6)], fill=bone, width=int(rng.integers(12, 40)))
            draw.line([(x, y + gap + 6), line[2]], fill=bone, width=int(rng.integers(12, 40)))
            for sign in (-1, 1):
                r = rng.uniform(12, 30)
                draw.ellipse((x - r, y + gap + sign * (r + 2) - r, x + r, y + gap + sign * (r + 2) + r), fill=bone)
        else:
            draw.line(line, fill=bone, width=int(rng.integers(10, 30)), joint="curve")
    turned = page.rotate(float(rng.uniform(0, 360)), fillcolor=5) if rng.random() < 0.4 else page
    return _grained(np.array(turned.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))), rng)


def from_the_side(rng: np.random.Generator) -> Pixels:
    """Draw a chest from the side: one dark lung field between breastbone and spine, the heart low in front."""
    side = 256
    page = Image.new("L", (side, side), int(rng.integers(5, 60)))
    draw = ImageDraw.Draw(page)
    bright = rng.uniform(120, 190)
    lean = rng.uniform(-15, 15)
    trunk = [(60 + lean, -5), (40, 90), (35, 180), (45, 260), (225, 260), (220, 150), (210, 60), (170 + lean, -5)]
    draw.polygon(trunk, fill=int(bright))
    field = [
        (110 + lean, 20),
        (75, 90),
        (62, 170),
        (75, 205),
        (130, 185),
        (185, 225),
        (196, 150),
        (180, 70),
        (150 + lean, 20),
    ]
    draw.polygon(field, fill=int(bright * rng.uniform(0.25, 0.55)))
    draw.ellipse((62, 125, 62 + rng.uniform(60, 95), 205), fill=int(bright * rng.uniform(0.75, 1)))
    for y in range(20, 256, int(rng.integers(16, 24))):  # vertebrae
        x = 178 + 14 * np.sin(y / 90)
        draw.rectangle((x, y, x + 24, y + 13), fill=int(min(255, bright * rng.uniform(1, 1.25))))
    for y in range(30, 200, int(rng.integers(18, 30))):  # ribs
        draw.line([(190, y), (130, y + 25), (70, y + 15)], fill=int(bright * 0.6), width=int(rng.integers(2, 5)))
    drawn = page.filter(ImageFilter.GaussianBlur(rng.uniform(2, 6)))
    return _grained(np.array(ImageOps.mirror(drawn) if rng.random() < 0.5 else drawn), rng)


DRAWINGS: tuple[Callable[[np.random.Generator], Pixels], ...] = (
    text_page, plot, clouds, scene, body_slice, ultrasound, limb, from_the_side,
)  # fmt: skip


def changed(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return pixels as another machine or website might have them: cut, stretched, framed, toned, slightly turned."""
    picture = Image.fromarray(pixels)
    width, height = picture.size
    most = rng.choice([0.0, 0.06, 0.14])
    left, right, top, bottom = rng.uniform(0, most, 4) * (width, width, height, height)
    picture = picture.crop((int(left), int(top), int(width - right), int(height - bottom)))
    if most == 0:  # a wider view: neck, arms and belly around the chest
        picture = _widened(picture, rng)
    picture = picture.resize((256, int(256 * rng.uniform(0.7, 1.35))))
    if rng.random() < 0.5:
        picture = picture.rotate(float(rng.normal(0, 5)), Image.Resampling.BILINEAR, fillcolor=int(np.min(picture)))
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    grey = (np.asarray(picture, float) / 255) ** np.exp(rng.normal(0, 0.45))
    if rng.random() < 0.5:  # light that falls off to a side, or to all of them
        y, x = np.mgrid[-1 : 1 : grey.shape[0] * 1j, -1 : 1 : grey.shape[1] * 1j]
        grey = grey * (1 + rng.normal(0, 0.15) * x + rng.normal(0, 0.2) * y - rng.uniform(0, 0.3) * (x * x + y * y))
    middle, slope = rng.uniform(0.3, 0.7), rng.uniform(0.5, 1.8)
    picture = Image.fromarray(np.uint8(255 * np.clip((grey - middle) * slope + middle + rng.normal(0, 0.05), 0, 1)))
    if rng.random() < 0.2:
        picture = ImageOps.equalize(picture)
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))
    if rng.random() < 0.4:  # letters and arrows
        draw = ImageDraw.Draw(picture)
        for _ in range(rng.integers(1, 4)):
            at = (int(rng.integers(0, picture.width - 20)), int(rng.integers(0, picture.height - 20)))
            draw.text(at, str(rng.choice(list("LRABab12→"))), int(rng.choice([0, 255])), font_size=int(rng.integers(10, 40)))
    if rng.random() < 0.25:
        picture = ImageOps.expand(picture, int(rng.integers(2, 40)), int(rng.choice([0, 0, 255])))
    return _grained(np.array(picture), rng)


def _widened(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a picture with more around it, that fades into the dark or not."""
    pixels = np.array(picture.resize((224, 224)), float)
    top, bottom, left, right = rng.integers(0, 40, 4)
    wide = np.pad(pixels, ((top, bottom), (left, right)), "edge" if rng.random() < 0.6 else "reflect")
    y, x = np.mgrid[: wide.shape[0], : wide.shape[1]]
    out = np.maximum.reduce([left - x, x - left - 223, np.zeros_like(x)]) / 40 * rng.uniform(0, 2)
    above = np.maximum(top - y, 0) / 40 * rng.uniform(0, 2)
    neck = np.exp(-(((x - left - 112) / rng.uniform(25, 50)) ** 2))
    dark = np.exp(-out) * (neck + (1 - neck) * np.exp(-above))
    return Image.fromarray(np.uint8(np.clip(wide * dark, 0, 255)))


def spoilt(film: Pixels, rng: np.random.Generator) -> Pixels:
    """Return a film turned, inverted, or cut so far that no chest is left."""
    film = changed(film, rng)
    what = rng.integers(0, 6)
    if what < 3:
        return np.ascontiguousarray(np.rot90(film, what + 1))
    if what == 3:
        return np.asarray(255 - film)
    return cut(film, rng, 0.45)


def cut(pixels: Pixels, rng: np.random.Generator, most: float = 1.0) -> Pixels:
    """Return a part of a picture, at most a share of its sides."""
    height, width = pixels.shape
    share = rng.uniform(0.3, most)
    rows, columns = max(16, int(share * height)), max(16, int(share * width))
    y, x = rng.integers(0, max(1, height - rows + 1)), rng.integers(0, max(1, width - columns + 1))
    return np.ascontiguousarray(pixels[y : y + rows, x : x + columns])


def _grained(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    noise = rng.normal(0, rng.uniform(0, 8), pixels.shape)
    return np.uint8(np.clip(pixels + noise, 0, 255))


def _grid(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[:side, :side] / side
    return y, x


def _grey(values: NDArray[np.float64]) -> Pixels:
    low, high = np.quantile(values, (0.005, 0.995))
    return np.uint8(255 * np.clip((values - low) / max(high - low, 1e-9), 0, 1))


if __name__ == "__main__":
    main()
