"""Every metric against a closed form, another implementation, or a direction it must point in."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ganc.checkpoints.header import read_header
from ganc.checkpoints.store import load
from ganc.errors import ComputationError, DataError, InputError, UsageError, WeightsError
from ganc.evaluation.evaluate import evaluate
from ganc.evaluation.metrics import METRICS
from ganc.models.model import Model
from ganc.models.sampling import Latents, iterate_samples
from ganc.perceptual.distance import load_perceptual
from ganc.perceptual.features import load_features
from ganc.runtimes.measure import measure
from tests.conftest import make_model
from tests.weights.random_weights import install, published_trunk, random_lpips, save_inception

from .witnesses import colours, write_images


def samples_of(model: Model, count: int) -> torch.Tensor:
    return torch.cat(list(iterate_samples(model.generator, Latents(), count, batch=8)))


# --- counts -------------------------------------------------------------------------------------


def test_macs_and_params_are_the_headers(checkpoint: Path) -> None:
    header = read_header(checkpoint)
    values = evaluate(load(checkpoint), ["macs", "params"])["metrics"]
    assert values == {"macs": header.macs, "params": header.params}
    assert values["params"] > 0


# --- student against teacher --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "l1", "psnr"),
    [
        (0.5, 0.25, 0.25, 10 * math.log10(4 / 0.25**2)),
        (-1.0, 1.0, 2.0, 0.0),  # as far as two images can be
        (0.5, 0.5, 0.0, 100.0),  # equal: infinite, told as the documented limit
        (3.0, 1.0, 0.0, 100.0),  # an overshoot is clamped, as every viewer does
    ],
)
def test_l1_and_psnr_of_flat_images(student: float, teacher: float, l1: float, psnr: float) -> None:
    result = evaluate(colours(student), ["l1", "psnr"], teacher=colours(teacher), samples=5)
    assert result["metrics"] == pytest.approx({"l1": l1, "psnr": psnr}, rel=1e-6)
    assert result["settings"]["protocols"]["l1"]["pairs"] == 5


def test_student_and_teacher_see_the_same_latents_labels_and_noise() -> None:
    model = make_model(c_dim=4)
    values = evaluate(model, ["l1", "psnr"], teacher=make_model(c_dim=4), samples=6)["metrics"]
    assert values == {"l1": 0.0, "psnr": 100.0}


def test_lpips_is_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = random_lpips("squeeze")
    tensors = published_trunk(theirs.net.state_dict())
    install(monkeypatch, "squeezenet1_1", lambda path: torch.save(tensors, path))
    student, teacher = colours(0.3, 0.2, resolution=32), colours(-0.1, 0.4, resolution=32)
    metrics = ["lpips", "lpips-diversity"]
    result = evaluate(student, metrics, teacher=teacher, samples=6, perceptual="lpips-squeeze")
    images = samples_of(student, 12).clamp(-1, 1)
    with torch.no_grad():
        between = theirs(images[:6], samples_of(teacher, 6).clamp(-1, 1)).flatten().numpy()
        within = theirs(images[::2], images[1::2]).flatten().numpy()
    expected = {
        "lpips": between.mean(),
        "lpips-diversity": within.mean(),
        "lpips-diversity-ci95": 1.96 * within.std(ddof=1) / np.sqrt(6),
    }
    assert result["metrics"] == pytest.approx(expected, rel=1e-5)
    assert result["settings"]["protocols"]["lpips"]["network"] == "lpips-squeeze"


def test_perceptual_metrics_are_means_over_pairs() -> None:
    student, teacher = make_model(seed=0), make_model(seed=5)
    metrics = ["perceptual", "perceptual-diversity"]
    values = evaluate(student, metrics, teacher=teacher, samples=5, batch=4)["metrics"]
    distance = load_perceptual("effnet-lite0")
    images = samples_of(student, 10).clamp(-1, 1)
    between = distance(images[:5], samples_of(teacher, 5).clamp(-1, 1))
    within = distance(images[::2], images[1::2]).numpy()
    assert values["perceptual"] == pytest.approx(between.mean().item(), rel=1e-5)
    assert values["perceptual-diversity"] == pytest.approx(within.mean(), rel=1e-5)
    interval = 1.96 * within.std(ddof=1) / np.sqrt(5)
    assert values["perceptual-diversity-ci95"] == pytest.approx(interval, rel=1e-4)


def test_diversity_of_a_collapsed_model_is_zero() -> None:
    values = {
        spread: evaluate(colours(0.0, spread), ["perceptual-diversity"], samples=4)["metrics"]
        for spread in (0.0, 0.3)
    }
    assert values[0.0] == {"perceptual-diversity": 0.0, "perceptual-diversity-ci95": 0.0}
    assert values[0.3]["perceptual-diversity"] > 0.01


# --- distances between sets ---------------------------------------------------------------------


def test_fd_of_two_gaussians(mean_colour: str) -> None:
    """Colours m + s·z: |m - m'|² + (s - s')² tr(S), with the samples' own mean and covariance."""
    student, teacher = colours((0.1, 0.0, -0.1), 0.2), colours((0.0, 0.1, 0.0), 0.1)
    values = evaluate(student, ["fd"], teacher=teacher, samples=400, features=mean_colour)
    ours, theirs = (samples_of(m, 400).mean(dim=(2, 3)).double() for m in (student, teacher))
    spread = ours.T.cov().diagonal().sqrt() - theirs.T.cov().diagonal().sqrt()
    shift = (ours.mean(dim=0) - theirs.mean(dim=0)).square().sum()
    # The covariances commute only nearly; 8 bits move a mean by 1/255/20 and a deviation less.
    expected = float(shift + spread.square().sum())
    assert values["metrics"]["fd"] == pytest.approx(expected, rel=0.02)
    assert values["settings"]["protocols"]["fd"]["reference"] == "teacher"


@pytest.mark.parametrize("metric", ["fd", "kd", "precision", "coverage"])
def test_one_real_image_is_too_few_for_a_set(metric: str, tmp_path: Path) -> None:
    model = make_model()
    data = write_images(samples_of(model, 1), tmp_path / "data")
    with pytest.raises(DataError) as caught:
        evaluate(model, [metric], data=data, samples=4)
    assert caught.value.message == f"{data}: holds 1 image, {metric} needs 2 or more"
    assert caught.value.exit_code == 3
    assert "--samples" not in (caught.value.hint or "")


def test_fd_to_its_own_images_is_zero(tmp_path: Path) -> None:
    model = make_model()
    data = write_images(samples_of(model, 12), tmp_path / "data")
    result = evaluate(model, ["fd"], data=data, samples=12)
    # Equal sets; what is left is the square root of eigenvalues that are zero but for 1e-16.
    assert result["metrics"]["fd"] < 1e-4
    protocol = result["settings"]["protocols"]["fd"]
    assert (protocol["reference"], protocol["reference_images"]) == ("data", 12)
    assert protocol["features"] == "effnet-lite0"
    assert result["settings"]["data"]["images"] == 12


def test_fd_grows_when_a_model_collapses(mean_colour: str) -> None:
    teacher = colours(0.0, 0.3)
    values = [
        evaluate(colours(0.0, spread), ["fd"], teacher=teacher, samples=200, features=mean_colour)[
            "metrics"
        ]["fd"]
        for spread in (0.3, 0.2, 0.05, 0.0)
    ]
    assert values == sorted(values)
    assert values[0] < 1e-9
    assert values[-1] > 0.1


@pytest.mark.slow
def test_fid_is_that_of_clean_fids_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On clean-fid's own features of the same images as PNG files, by another form of the trace.

    With Σ = AᵀA and Σ' = BᵀB the eigenvalues of ΣΣ' are the squared singular values of ABᵀ, a
    small matrix for few images.
    """
    from cleanfid.fid import get_folder_features

    install(monkeypatch, "inception", save_inception)
    model, other = colours(0.0, 0.3, resolution=32), colours(0.2, 0.2, resolution=32)
    folders = [
        write_images(samples_of(m, n), tmp_path / f"{n}") for m, n in ((model, 20), (other, 30))
    ]
    result = evaluate(model, ["fid"], data=folders[1], samples=20)
    network = load_features("inception")._network
    fake, real = (
        get_folder_features(
            str(folder), model=network, num_workers=0, device=torch.device("cpu"), mode="clean",
            verbose=False,
        ).astype(np.float64)
        for folder in folders
    )  # fmt: skip
    roots = [(x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (fake, real)]
    spread = sum((root**2).sum() for root in roots)
    shift = ((fake.mean(axis=0) - real.mean(axis=0)) ** 2).sum()
    expected = shift + spread - 2 * np.linalg.norm(roots[0] @ roots[1].T, "nuc")
    # A relative 1e-5 is float32 features at another batch size.
    assert result["metrics"]["fid"] == pytest.approx(expected, rel=1e-5, abs=1e-3)
    assert expected > 1


def test_real_images_are_measured_once(tmp_path: Path, mean_colour: str) -> None:
    model = colours(0.0, 0.3)
    data = write_images(samples_of(model, 5), tmp_path / "data")
    passes: list[list[str]] = []
    for _ in range(2):
        told: list[str] = []
        evaluate(
            model, ["fd"], data=data, samples=4, features=mean_colour,
            progress=lambda what, done, total, told=told: told.append(what),  # type: ignore[misc]
        )  # fmt: skip
        passes.append(told)
    assert "real images" in passes[0]
    assert "real images" not in passes[1]
    assert "samples" in passes[1]


# --- what holds for all -------------------------------------------------------------------------


@pytest.mark.slow
def test_batch_size_changes_nothing(tmp_path: Path) -> None:
    student, teacher = make_model(seed=0), make_model(seed=5)
    data = write_images(samples_of(teacher, 9), tmp_path / "data")
    metrics = ["l1", "psnr", "perceptual", "perceptual-diversity", "fd"]
    results = [
        evaluate(student, metrics, teacher=teacher, data=data, samples=9, batch=batch)["metrics"]
        for batch in (1, 5, 32)
    ]
    assert set(results[0]) == {*metrics, "perceptual-diversity-ci95"}
    for result in results[1:]:
        # Rounding, which fd magnifies: nine samples leave most of its directions without variance.
        assert result == pytest.approx(results[0], rel=1e-4, abs=1e-5)


def test_seed_and_truncation_are_settings_of_the_number() -> None:
    model, teacher = make_model(seed=0), make_model(seed=5)
    values = [
        evaluate(model, ["l1"], teacher=teacher, samples=4, **settings)["metrics"]["l1"]  # type: ignore[arg-type]
        for settings in ({}, {"seed": 1}, {"truncation_psi": 0.5}, {"noise_mode": "none"})
    ]
    assert len(set(values)) == 4


def test_result_is_json_with_its_protocol(mean_colour: str) -> None:
    warnings: list[str] = []
    result = evaluate(
        colours(0.1, 0.1), ["params", "fd"], teacher=colours(0.0, 0.2), samples=4, seed=3,
        features=mean_colour, require=["fd<=1", "params>1K"], warn=warnings.append,
    )  # fmt: skip
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    settings = result["settings"]
    assert (settings["seed"], settings["samples"], settings["device"]) == (3, 4, "cpu")
    assert settings["versions"]["torch"] == torch.__version__
    assert settings["teacher"]["content_hash"] != settings["model"]["content_hash"]
    assert settings["protocols"]["fd"]["sha256"] == "0" * 64
    assert [row["met"] for row in result["requirements"]] == [True, False]
    assert len(warnings) == 1
    assert "fd of 4 samples" in warnings[0]


def test_requirements_bring_their_metrics_and_the_teachers_values() -> None:
    student, teacher = colours(0.0, 0.1), colours(0.0, 0.3)
    requirement = "perceptual-diversity>=2*teacher"
    result = evaluate(student, require=[requirement], teacher=teacher, samples=4)
    theirs = evaluate(teacher, ["perceptual-diversity"], samples=4)["metrics"]
    assert result["teacher_metrics"] == theirs
    row = result["requirements"][0]
    assert row["expr"] == requirement
    assert row["value"] == result["metrics"]["perceptual-diversity"]
    assert row["bound"] == 2 * theirs["perceptual-diversity"]
    assert not row["met"]
    assert "l1" not in result["metrics"]


def test_default_metrics() -> None:
    alone = evaluate(make_model(), samples=2)["metrics"]
    paired = evaluate(make_model(), teacher=make_model(seed=5), samples=2)["metrics"]
    assert set(paired) - set(alone) == {"l1", "psnr"}
    assert {"macs", "params", "latency"} <= set(alone)


def test_latency_is_told_for_two_batch_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganc.evaluation.latency.measure", partial(measure, enough_sec=0.0))
    result = evaluate(make_model(), ["latency"])
    values = result["metrics"]
    assert set(values) == {"latency", *METRICS["latency"].extras}
    assert 0 < values["latency"] <= values["latency-p90"]
    assert 0 < values["latency-batch8"] <= values["latency-batch8-p90"]
    protocol = result["settings"]["protocols"]["latency"]
    assert protocol["runs"] == {"batch1": 5, "batch8": 5}
    assert protocol["threads"] == torch.get_num_threads()


def test_the_model_is_left_as_it_was(mean_colour: str) -> None:
    model = make_model()
    before = model.content_hash()
    model.generator.train().requires_grad_(True)
    evaluate(model, ["l1", "macs"], teacher=make_model(seed=5), samples=4)
    assert model.generator.training
    assert all(parameter.requires_grad for parameter in model.generator.parameters())
    assert model.content_hash() == before


# --- what goes wrong ----------------------------------------------------------------------------


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown metric `lpip`") as caught:
        evaluate(colours(0.0), ["macs", "lpip"])
    assert caught.value.hint == "did you mean `lpips`?"
    with pytest.raises(UsageError, match="unknown --features `effnet`"):
        evaluate(colours(0.0), ["fd"], teacher=colours(0.0), features="effnet")


def test_lpips_never_runs_on_effnet() -> None:
    with pytest.raises(UsageError, match="unknown --perceptual `effnet-lite0`; allowed: lpips-vgg"):
        evaluate(colours(0.0), ["lpips"], teacher=colours(0.0), perceptual="effnet-lite0")


def test_missing_company_is_named() -> None:
    with pytest.raises(UsageError, match="l1, psnr: no teacher to compare with") as caught:
        evaluate(colours(0.0), ["l1", "macs", "psnr"])
    assert caught.value.hint == "pass --teacher CKPT"
    with pytest.raises(UsageError, match="fid, fd: neither real images nor a teacher"):
        evaluate(colours(0.0), ["fid", "fd"])


@pytest.mark.parametrize("settings", [{"samples": 1}, {"batch": 0}, {"noise_mode": "loud"}])
def test_values_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        evaluate(colours(0.0), ["macs"], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "way"),
    [
        ("fid", "--metrics fd (effnet-lite0)"),
        ("kid", "--metrics kd (effnet-lite0)"),
        ("lpips-diversity", "--metrics perceptual-diversity (effnet-lite0)"),
    ],
)
def test_missing_weights_are_found_before_sampling(metric: str, way: str) -> None:
    told: list[str] = []
    model = colours(0.0, resolution=32)
    with pytest.raises(WeightsError, match="SHA-256") as caught:
        evaluate(
            model, ["l1", metric], teacher=model, offline=True,
            progress=lambda what, done, total: told.append(what),
        )  # fmt: skip
    assert caught.value.hint is not None
    assert way in caught.value.hint
    assert told == []


def test_teacher_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="the teacher's img_resolution is 16, the model's is 8"):
        evaluate(colours(0.0), ["l1"], teacher=colours(0.0, resolution=16))
    with pytest.raises(InputError, match="the teacher's c_dim is 4, the model's is 0"):
        evaluate(make_model(), ["l1"], teacher=make_model(c_dim=4))


def test_data_of_another_size_is_refused_unless_resized(
    tmp_path: Path,
    mean_colour: str,
) -> None:
    model = colours(0.0, 0.2)
    data = write_images(samples_of(colours(0.0, 0.2, resolution=16), 6), tmp_path / "data")
    with pytest.raises(DataError, match="size 16x16, allowed is 8x8"):
        evaluate(model, ["fd"], data=data, features=mean_colour)
    result = evaluate(model, ["fd"], data=data, features=mean_colour, samples=6, resize=True)
    assert result["metrics"]["fd"] < 1e-3
    assert result["settings"]["data"]["resize"] is True


def test_a_broken_image_ends_an_evaluation(tmp_path: Path, mean_colour: str) -> None:
    model = colours(0.0, 0.2)
    data = write_images(samples_of(model, 6), tmp_path / "data")
    victim = data / "00004.png"
    victim.write_bytes(victim.read_bytes()[:40])
    told: list[str] = []
    with pytest.raises(DataError, match=r"00004\.png"):
        evaluate(
            model, ["fd"], data=data, features=mean_colour,
            progress=lambda what, done, total: told.append(what),
        )  # fmt: skip
    assert "samples" not in told


def test_what_is_left_out_stands_in_the_protocol(tmp_path: Path, mean_colour: str) -> None:
    model = colours(0.0, 0.2)
    data = write_images(samples_of(model, 6), tmp_path / "data")
    whole = evaluate(model, ["fd"], data=data, features=mean_colour, samples=6)
    for i, name in enumerate(["0.jfif", "1.JPE", "2"]):  # the same images under other names
        (data / f"{i:05}.png").rename(data / name)
    (data / "notes.txt").write_text("x")
    (data / "a.gif").write_bytes(b"GIF89a")
    said: list[str] = []
    result = evaluate(model, ["fd"], data=data, features=mean_colour, samples=6, warn=said.append)
    assert result["metrics"] == pytest.approx(whole["metrics"], abs=1e-9)
    protocol = result["settings"]["protocols"]["fd"]
    assert (protocol["reference_images"], protocol["left_out"]) == (6, {".gif": 1, ".txt": 1})
    described = result["settings"]["data"]
    assert (described["images"], described["left_out"]) == (6, {".gif": 1, ".txt": 1})
    found = "2 files left out, no images: 1 .gif, 1 .txt; GIF: not read, save as PNG"
    assert f"{data}: {found}" in said


def test_networks_for_colour_refuse_an_alpha_channel() -> None:
    model = make_model(img_channels=4)
    refusal = "needs images of 1 or 3 channels, the model makes 4"
    for metric in ("fd", "perceptual", "perceptual-diversity"):
        with pytest.raises(InputError, match=f"{metric} {refusal}") as caught:
            evaluate(model, [metric], teacher=model)
        assert caught.value.hint == "l1, psnr, macs, params and latency take any"
    with pytest.raises(InputError, match=refusal) as caught:
        evaluate(model, ["perceptual-diversity"])
    assert caught.value.hint == "macs, params and latency take any"  # l1 needs a teacher
    assert evaluate(model, ["l1"], teacher=model, samples=2)["metrics"] == {"l1": 0.0}


def test_images_too_small_for_a_trunk_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = published_trunk(random_lpips("squeeze").net.state_dict())
    install(monkeypatch, "squeezenet1_1", lambda path: torch.save(tensors, path))
    with pytest.raises(InputError, match="needs images of 17 px or more, it would see 16"):
        evaluate(make_model(), ["lpips-diversity"], perceptual="lpips-squeeze")


def test_a_diverged_model_is_an_error_not_a_nan() -> None:
    model = make_model()
    with torch.no_grad():
        model.generator.synthesis.b16.torgb.bias.fill_(math.nan)
    with pytest.raises(ComputationError, match="the model: sample 0 of seed 0 gives"):
        evaluate(model, ["l1"], teacher=make_model(), samples=4)


def test_a_discriminator_alone_has_no_samples() -> None:
    alone = Model(discriminator=make_model().discriminator)
    assert evaluate(alone, ["params"])["metrics"]["params"] == alone.params()
    with pytest.raises(InputError, match="the model holds no generator"):
        evaluate(alone, ["perceptual-diversity"])


# --- sets of features ---------------------------------------------------------------------------


def test_a_collapsed_model_loses_recall_and_keeps_precision(
    tmp_path: Path, mean_colour: str
) -> None:
    """The direction of each, through the whole evaluation: never swapped."""
    metrics = ["precision", "recall", "density", "coverage", "kd"]
    data = write_images(samples_of(colours(0.0, 0.2), 120), tmp_path / "data")
    common = {"data": data, "samples": 100, "features": mean_colour}
    good = evaluate(colours(0.0, 0.2), metrics, **common)
    collapsed = evaluate(colours(0.0, 0.004), metrics, **common)["metrics"]
    values = good["metrics"]
    assert values["precision"] > 0.9
    assert values["recall"] > 0.9
    assert collapsed["precision"] > 0.9
    assert collapsed["recall"] < 0.1
    assert collapsed["coverage"] < 0.2 < 0.8 < values["coverage"]
    assert collapsed["kd"] > values["kd"] + 1e-4
    protocols = good["settings"]["protocols"]
    assert protocols["precision"]["neighbours"] == 3
    assert protocols["coverage"]["neighbours"] == 5
    assert protocols["kd"]["reference_images"] == 120


def test_without_data_sets_are_compared_with_the_teachers(mean_colour: str) -> None:
    model = colours(0.1, 0.3)
    metrics = ["precision", "recall", "coverage", "kd"]
    told: list[str] = []
    result = evaluate(model, metrics, teacher=model, samples=40, features=mean_colour,
                      neighbours=2, warn=told.append)  # fmt: skip
    values = result["metrics"]
    assert [values[n] for n in metrics[:3]] == [1.0, 1.0, 1.0]
    assert (
        values["kd"] < 0
    )  # the unbiased estimate of two equal sets: no pair of a vector and itself
    assert result["settings"]["protocols"]["recall"]["neighbours"] == 2
    assert len([line for line in told if "precision" in line]) == 1


def test_real_features_are_computed_once_for_all_metrics(
    tmp_path: Path, mean_colour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_images(samples_of(colours(0.0, 0.2), 20), tmp_path / "data")
    seen: list[int] = []

    def told(what: str, done: int, total: int) -> None:
        seen.extend([done] if what == "real images" else [])

    metrics = ["precision", "fd", "kd", "coverage"]
    common = {"data": data, "samples": 20, "features": mean_colour, "batch": 20}
    first = evaluate(colours(0.0, 0.1), metrics, **common, progress=told)["metrics"]
    assert seen == [20]
    again = evaluate(colours(0.0, 0.1), metrics, **common, progress=told)["metrics"]
    assert seen == [20]
    assert again == first
    alone = evaluate(colours(0.0, 0.1), ["fd"], **common)["metrics"]
    assert alone["fd"] == pytest.approx(first["fd"], rel=1e-6)
