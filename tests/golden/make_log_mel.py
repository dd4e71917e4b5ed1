"""Makes log_mel.npz: a chirp with noise, as librosa hears it.

    python tests/golden/make_log_mel.py

FFT_HOP_MELS_RATE [T, M]: log(max(mel, 1e-10)) of `wave()`. Made with librosa 0.11.0.
"""

from pathlib import Path

import numpy as np

CASES = ((256, 128, 40, 8000), (400, 160, 23, 16000))


def wave() -> np.ndarray:
    """Half a second at 8 kHz [4000], the same wherever it is made."""
    t, state, noise = np.arange(4000) / 8000, 1, []
    for _ in t:  # Numerical Recipes' generator
        state = (state * 1664525 + 1013904223) % 2**32
        noise.append(state / 2**31 - 1)
    chirp = np.sin(2 * np.pi * (200 * t + 1500 * t**2)) * np.exp(-3 * t)
    return (chirp + 0.01 * np.array(noise)).astype(np.float32)


def main():
    import librosa

    arrays = {}
    for fft, hop, mels, rate in CASES:
        options = {"n_fft": fft, "hop_length": hop, "n_mels": mels}
        found = librosa.feature.melspectrogram(y=wave(), sr=rate, **options)
        log = np.log(np.maximum(found, 1e-10)).T
        arrays["_".join(map(str, (fft, hop, mels, rate)))] = log.astype(np.float32)
    np.savez_compressed(Path(__file__).with_name("log_mel.npz"), **arrays)


if __name__ == "__main__":
    main()
