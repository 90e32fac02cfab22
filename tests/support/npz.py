"""Small npz files, whole and by their parts."""

import io

import numpy as np


def arrays() -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2, 2, 1, 0, 0])
    return {
        "x_train": pixels[:6],
        "y_train": labels[:6],
        "x_test": pixels[6:],
        "y_test": labels[6:],
    }


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
