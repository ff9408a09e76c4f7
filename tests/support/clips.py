"""Small clips and pictures, as files."""
import numpy as np


def write_clip(path, seed, frames=12):
    import av

    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        start = rng.integers(0, 200, (6, 8, 3))
        for t in range(frames):
            image = np.kron(np.roll(start, t, 1), np.ones((8, 8, 1))).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_picture(path, seed):
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((64, 48)).save(path)
