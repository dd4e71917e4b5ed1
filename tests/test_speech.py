"""Log-mels beside librosa's, SpecAugment, networks that hear, strings of recordings."""

import wave as waves
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import quick
from tests.golden.make_log_mel import CASES, wave
from train.data import Data, Split, from_json, speech, to_json
from train.recipes import RECIPES, build, prepare
from train.report import charts
from zoo import rnn
from zoo import speech as models
from zoo.base import UsageError

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

WORDS = speech.load_recordings("tones")
STRINGS = speech.load_strings("tones")
QUIET = speech.silence(STRINGS.schema)


def librosa(fft, hop, mels, rate):
    with np.load(Path(__file__).parent / "golden" / "log_mel.npz") as file:
        return file["_".join(map(str, (fft, hop, mels, rate)))]


def heard(fft, hop, mels, rate, sound=None):
    sound = wave() if sound is None else sound
    return models.log_mel(sound[None], fft=fft, hop=hop, mels=mels, rate=rate)[0]


@pytest.mark.parametrize("case", CASES)
def test_log_mels_are_librosas(case):
    found = heard(*case)
    np.testing.assert_allclose(found, librosa(*case), rtol=0, atol=1e-4)


def test_faults_of_features_are_seen(monkeypatch):
    """Each of these is a mistake that others make: none is within 1e-4."""
    case, right = CASES[0], librosa(*CASES[0])
    wrong = {"half a sample": heard(*case, sound=np.roll(wave(), 1))}
    scale = models.mel
    with monkeypatch.context() as patch:  # HTK's scale
        patch.setattr(models, "mel", lambda f: 2595 * np.log10(1 + f / 700))
        patch.setattr(models, "hertz", lambda m: 700 * (10 ** (m / 2595) - 1))
        wrong["HTK"] = heard(*case)
    with monkeypatch.context() as patch:  # a symmetric window
        cos = np.cos
        patch.setattr(models.np, "cos", lambda x: cos(x * 256 / 255))
        wrong["window"] = heard(*case)
    assert models.mel is scale
    for name, found in wrong.items():
        assert np.abs(found - right).max() > 1e-3, name


def test_a_tone_is_in_its_mel_and_silence_is_the_floor():
    hertz = np.array([0.0, 300.0, 999.0, 1000.0, 1001.0, 3999.0])
    np.testing.assert_allclose(models.hertz(models.mel(hertz)), hertz, rtol=1e-12)
    assert models.mel(np.array([200.0, 1000.0])) == pytest.approx([3.0, 15.0])
    corners = models.hertz(np.linspace(0, models.mel(np.array([4000.0]))[0], 42))
    tones = np.sin(2 * np.pi * corners[1:-1:5, None] * np.arange(2000) / 8000)
    found = models.log_mel(tones.astype(np.float32))
    assert (found[:, 4:-4].mean(1).argmax(-1) == np.arange(0, 40, 5)).all()
    silent = models.log_mel(jnp.zeros((1, 500)), floor=1e-3)
    np.testing.assert_allclose(silent, np.log(1e-3), rtol=1e-6)
    assert silent.shape == (1, 1 + 500 // 128, 40)


def test_filters_without_a_frequency_are_refused():
    with pytest.raises(
        UsageError, match="expected fewer mels, or a longer fft, than 200"
    ):
        models.mel_filters(8000, 256, 200)
    area = models.mel_filters(8000, 4096, 20).sum(0) * 8000 / 4096
    np.testing.assert_allclose(area, 1, atol=0.01)


def test_spec_augment_masks_runs_of_frames_and_mels():
    n, options = 400, {"frames": 8, "mels": 6, "masks": 1}
    length = jnp.arange(n) % 45 + 6  # 6 to 50 frames
    real = np.arange(50)[None] < np.asarray(length)[:, None]
    x = jnp.where(real[..., None], 1.0, 0.0) * jnp.ones((n, 50, 20))
    mask = jax.jit(lambda key: models.spec_augment(key, x, length, **options))
    found = np.asarray(mask(jax.random.key(0)))
    np.testing.assert_array_equal(found, mask(jax.random.key(0)))
    assert (found != mask(jax.random.key(1))).any()
    assert set(np.unique(found)) == {0, 1} and not found[~real].any()
    mels = (found == 0).all(1)
    times = (found == 0).all(2) & real
    # what is masked is a run of each, and nothing else
    assert ((found == 0) == (mels[:, None] | times[..., None] | ~real[..., None])).all()
    for runs, most in ((mels, 6), (times, np.minimum(8, np.asarray(length) // 5))):
        assert (np.diff(np.pad(runs, ((0, 0), (1, 1))) * 1, axis=1) == 1).sum(
            1
        ).max() == 1
        assert (runs.sum(1) <= most).all()
    assert np.bincount(mels.sum(1), minlength=7) / n == pytest.approx(1 / 7, abs=0.06)
    assert mels.mean(0).min() > 0.02 and times[:, :6].mean(0).min() > 0
    with pytest.raises(UsageError, match="expected mels between 0"):
        models.spec_augment(jax.random.key(0), x, length, mels=-1)


NETWORKS = {
    "keyword": models.Keyword(3, (4, 4), 8),
    "transcriber": models.Transcriber(3, rnn.RNN(rnn.LSTM, 4, 1, True), stack=3),
}


@pytest.mark.contract
@pytest.mark.parametrize("name", quick(NETWORKS, "transcriber"))
def test_padding_changes_nothing(name):
    """However much there is, and whatever stands in it; a frame more changes it."""
    network = NETWORKS[name]
    x = np.random.default_rng(0).normal(size=(2, 17, 12)).astype(np.float32)
    length = np.array([9, 13], np.int32)
    variables = network.init(jax.random.key(0), x, length)
    # biases that are not zero
    variables = jax.tree.map(lambda a: a + 0.1, variables)

    def run(x, length):
        found = network.apply(variables, x, length)
        if name == "keyword":
            return found
        logits, steps = found
        assert steps.tolist() == [-(-n // 3) for n in length.tolist()]
        return np.asarray(logits)[:, : max(steps)]

    plain = run(x[:, :13], length)
    np.testing.assert_allclose(run(x, length)[1], plain[1], atol=1e-6)
    longer = np.pad(x, ((0, 0), (0, 6), (0, 0)), constant_values=np.nan)
    np.testing.assert_allclose(run(longer, length)[:, :3], plain[:, :3], atol=1e-6)
    assert np.abs(run(x, length + 1)[:, :3] - plain[:, :3]).max() > 1e-3


# Strings ------------------------------------------------------------------------------


def test_composed_features_are_those_of_the_composed_wave():
    draw = np.random.default_rng(0)
    cuts = [draw.normal(size=n).astype(np.float32) for n in (700, 129, 1024)]
    rows = speech.features(cuts, 12) | {"y": np.array([4, 0, 9], np.int32)}
    quiet = np.full(speech.MELS, np.log(speech.FLOOR), np.float32)
    index, pauses = np.array([[2, 0, 1, 2]]), np.array([[3, 0, 1, 2, 9]])
    found = speech.compose(rows, index, np.array([3]), pauses, quiet, 40)
    sound, at = np.zeros(39 * speech.HOP, np.float32), 0
    for i, pause in zip((2, 0, 1), (3, 0, 1), strict=True):
        at += pause
        begin = at * speech.HOP
        sound[begin : begin + len(cuts[i])] = cuts[i]
        at += rows["length"][i]
    assert found["y"].tolist() == [[10, 5, 1, 0]]
    assert found["length"].tolist() == [at + 2]
    real = speech.features([sound], 40)["x"][:, : at + 2]
    np.testing.assert_allclose(found["x"][:, : at + 2], real, atol=1e-5)
    assert not found["x"][:, at + 2 :].any()
    # a string that is too long ends before what does not fit
    cut = speech.compose(rows, index, np.array([3]), pauses, quiet, at - 1)
    assert cut["y"].tolist() == [[10, 5, 0, 0]] and cut["length"][0] <= at - 1


def test_strings_have_each_recording_once_before_any_again():
    rows = {k: v[:40] for k, v in STRINGS.train.items()}
    rows["y"] = np.arange(40, dtype=np.int32)  # to know them by
    source = speech.strings(QUIET, rows, 8)
    batch = jax.jit(source.batch)
    found = batch(source.arrays, np.uint32(3), np.int32(5))
    said = np.asarray(found["y"])
    counts = (said > 0).sum(1)
    assert len(set(said[said > 0])) == counts.sum() and counts.min() >= 1
    assert ((said > 0) == (np.arange(5) < counts[:, None])).all()
    assert said.shape == (8, 5) and found["x"].shape == (8, *STRINGS.schema.shape)
    again = batch(source.arrays, np.uint32(3), np.int32(5))
    np.testing.assert_array_equal(said, again["y"])
    assert (said != batch(source.arrays, np.uint32(4), np.int32(5))["y"]).any()
    drawn = [batch(source.arrays, np.uint32(0), np.int32(t))["y"] for t in range(40)]
    lengths = np.bincount((np.concatenate(drawn) > 0).sum(1), minlength=6)[1:]
    assert lengths / lengths.sum() == pytest.approx(0.2, abs=0.08)


def test_strings_to_test_on_have_each_recording_four_times():
    wanted = np.bincount(WORDS.test["y"]) * speech.ROUNDS
    said = STRINGS.test["y"]
    assert (np.bincount(said.ravel(), minlength=11)[1:] == wanted).all()
    assert (STRINGS.test["length"] <= speech.STRING).all()
    again = speech.load_strings("tones")
    np.testing.assert_array_equal(again.test["x"], STRINGS.test["x"])
    watched = speech.load_strings(Split("tones", 0.2, 1))
    assert len(watched.train["x"]) == 256 and watched.watched["y"].shape[1] == 5
    assert from_json(to_json(STRINGS.schema)) == STRINGS.schema
    assert speech.load_strings(STRINGS) is STRINGS


def test_words_are_standardised_by_those_trained_on():
    assert len(WORDS.train["x"]) == 320 and len(WORDS.test["x"]) == 80
    real = np.arange(speech.WORD)[None] < WORDS.train["length"][:, None]
    np.testing.assert_allclose(WORDS.train["x"][real].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(WORDS.train["x"][real].std(0), 1, atol=1e-4)
    assert not WORDS.train["x"][~real].any()


def test_a_speaker_is_held_out_whole():
    found, all = speech.load_recordings("tones", speaker=2), speech.tones()
    assert (all.speaker == 2).sum() == 100
    sizes = speech.frames_of(all.length)  # in order, they tell which recordings
    parts = ((found.train, all.speaker != 2), (found.test, all.speaker == 2))
    for rows, own in parts:
        np.testing.assert_array_equal(rows["length"], sizes[own])
        np.testing.assert_array_equal(rows["y"], all.y[own])
    # what is watched, and trained on in strings, is of the other speakers
    watched = speech.load_strings(Split("tones", 0.2), speaker=2)
    mine = speech.load_recordings(Split("tones", 0.2), speaker=2)
    np.testing.assert_array_equal(watched.train["x"], mine.train["x"])
    kept = np.concatenate([mine.train["length"], mine.watched["length"]])
    np.testing.assert_array_equal(np.sort(kept), np.sort(sizes[all.speaker != 2]))
    again = speech.load_recordings("tones", speaker=3)
    assert found.schema.mean != again.schema.mean


def test_the_loudest_second_is_kept():
    sound = np.zeros(20000)
    sound[9000:12000] = -3.0
    found = speech.loudest(sound)
    assert len(found) == 8000 and found.min() == -1 and (found != 0).sum() == 3000
    assert len(speech.loudest(np.ones(100))) == 100


# Files --------------------------------------------------------------------------------


def write(path, samples, rate=8000, channels=1, width=2):
    with waves.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, f"<i{width}").tobytes())
    return path


def test_a_wav_file_is_read(tmp_path):
    sound = (20000 * wave()).astype(np.int16)
    path = write(tmp_path / "a.wav", sound)
    np.testing.assert_array_equal(speech.read_wav(path), sound)
    row = speech.heard(WORDS.schema, path)
    assert row["x"].shape == (1, speech.WORD, speech.MELS)
    louder = write(tmp_path / "b.wav", sound // 2 * 2 // 2)
    # how loud it is changes nothing, but for rounding to whole samples
    other = speech.heard(STRINGS.schema, louder)
    assert other["length"] == other["x"].shape[1] == speech.frames_of(4000)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"rate": 16000}, r"a\.wav, found 16000, 1 and 16"),
        ({"channels": 2}, r"1 channel and 16 bits in .*a\.wav, found 8000, 2 and 16"),
        ({"width": 4}, "found 8000, 1 and 32"),
        ({"samples": np.zeros(8)}, r"expected sound in .*a\.wav, found silence"),
        ({"samples": []}, "found silence"),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path, how, said):
    path = write(tmp_path / "a.wav", **{"samples": np.arange(100)} | how)
    with pytest.raises(UsageError, match=said):
        speech.read_wav(path)


def test_what_is_no_sound_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_text("words")
    with pytest.raises(UsageError, match=r"a \.wav file, found .*a\.wav \(cut off\)"):
        speech.read_wav(tmp_path / "a.wav")
    with pytest.raises(UsageError, match="found no file at none.wav"):
        speech.heard(WORDS.schema, "none.wav")
    with pytest.raises(UsageError, match="found \"tomes\"; did you mean 'tones'"):
        speech.load_recordings("tomes")
    with pytest.raises(UsageError, match="expected speaker between 0 and 3, found 9"):
        speech.load_recordings("tones", speaker=9)
    monkeypatch.setenv("ZOO_DATA_DIR", str(tmp_path))
    with pytest.raises(UsageError, match=r"expected fsdd\.npz in .*found no such file"):
        speech.load_recordings()
    images = prepare(RECIPES["mlp"], data="iris").parts
    for name in ("keyword", "ctc"):
        with pytest.raises(UsageError, match=f"{name} wants recordings, one of fsdd"):
            prepare(RECIPES[name], data=Data(*images))
    with pytest.raises(UsageError, match="expected strings of words, found tones"):
        build(RECIPES["ctc"], WORDS.schema)


def test_an_alignment_is_drawn():
    p = np.full((10, 3), 1 / 3)
    path = np.array([0, 1, 1, 0, 2, 0, 2, 2, 0, 0])
    figure = charts.alignment(np.zeros((20, 5)), p, path, ("-", "one", "two"), 0.016)
    said = [text.get_text() for text in figure.axes[1].texts]
    assert said == ["one", "two", "two"]
    with pytest.raises(UsageError, match=r"expected probabilities \[10, 3\], found"):
        charts.alignment(np.zeros((20, 5)), p[:5], path, ("-", "one", "two"), 0.016)


@pytest.mark.contract
def test_files_are_heard_by_what_was_trained(zoo, tmp_path):
    found = speech.tones()
    audio = np.split(found.audio, np.cumsum(found.length)[:-1])
    which = [i for i in np.flatnonzero(found.test) if found.y[i] in (4, 7)][:2]
    gap = np.zeros(1000)
    parts = [gap, audio[which[0]], gap, audio[which[1]], gap]
    sound = np.concatenate(parts) / 4 * 2**15
    write(tmp_path / "two.wav", sound)
    one = audio[which[1]] / 4 * 2**15
    write(tmp_path / "one.wav", one)
    small = "--data tones --learning-rate 1e-2"
    status, out, err = zoo(f"train ctc {small} --features 24 --layers 1 --steps 150")
    assert status == 0, err
    assert (tmp_path / "runs/ctc/alignment.png").is_file()
    for beams in (8, 1):
        status, out, err = zoo(f"transcribe runs/ctc two.wav --beams {beams}")
        text = " ".join(str(found.y[i]) for i in which)
        assert status == 0 and out.startswith(f"two.wav\t{text}\t-"), out + err
    assert (tmp_path / "runs/ctc/alignment-two.png").is_file()
    flags = "--channels 4 8 --width 16 --steps 80"
    status, out, err = zoo(f"train keyword {small} {flags}")
    assert status == 0, err
    status, out, err = zoo("predict runs/keyword one.wav")
    assert status == 0 and out.splitlines()[1].startswith(f"{found.y[which[1]]},"), out
    for command, said in (
        ("transcribe runs/keyword one.wav", "expected a model that hears strings"),
        ("transcribe runs/ctc", "expected a .wav file to transcribe, found none"),
        ("transcribe runs/ctc three.wav", "found no file at three.wav"),
        ("predict runs/ctc one.wav", "ctc predicts nothing: see `zoo sample`"),
    ):
        status, out, err = zoo(command)
        assert status == 2 and said in err, err
