"""Mean and standard deviation of training images, in the units of the stored pixels."""

import numpy as np

# Of ImageNet's training images, by channel, for sets that are too large to be read before training.
IMAGENET_MEAN = (255 * np.array([0.485, 0.456, 0.406])).astype(np.float32)
IMAGENET_STD = (255 * np.array([0.229, 0.224, 0.225])).astype(np.float32)


def by_pixel(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean image of uint8 images [N, H, W, C] and one standard deviation of what is left: float32 [H, W, C], [].

    The papers subtract the mean and do not divide. One scalar leaves that geometry alone and brings pixels to unit
    variance, so that initialisation and learning rates do not depend on the range they are stored in.
    """
    mean, mean_square = _moments(images)
    return mean.astype(np.float32), _std((mean_square - mean**2).mean())


def by_channel(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation by channel of uint8 images [N, H, W, C]: float32 [C], [C]."""
    mean, mean_square = (moment.mean(axis=(0, 1)) for moment in _moments(images))
    return mean.astype(np.float32), _std(mean_square - mean**2)


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of x and of x^2 over uint8 images [N, H, W, C], exact up to the division: float64 [H, W, C]."""
    total = np.zeros(images.shape[1:], np.int64)
    total_square = np.zeros(images.shape[1:], np.int64)
    for start in range(0, len(images), 1024):  # so that no copy of the whole set is made; 1024 * 255^2 < 2^31
        chunk = images[start : start + 1024].astype(np.int32)
        total += chunk.sum(axis=0)
        total_square += np.square(chunk).sum(axis=0)
    return total / len(images), total_square / len(images)


def _std(variance: np.ndarray) -> np.ndarray:
    """Standard deviation, or 1 where images are constant: there is nothing to scale."""
    return np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 1).astype(np.float32)
