"""Every value of the published recipes, typed from the papers: a change of any must be meant."""

import pytest

from resjax.cli import load
from resjax.config import durations, flatten, plain
from resjax.errors import BadInput
from resjax.train.optim import learning_rate

# What the data set decides; tests/data/test_resolve.py has what it decides.
OPEN = {
    "data.augment": None,
    "data.pad": None,
    "data.normalize": None,
    "data.test_split": None,
    "data.image_size": 0,
    "model.input_size": 0,
    "model.input_channels": 0,
    "model.num_classes": 0,
}

# v1 section 3.4 and 4.2, v2 appendix: the same in all recipes unless a recipe says otherwise.
COMMON = {
    "seed": 0,
    "batch_size": 128,
    "total_steps": None,
    "total_epochs": None,
    "eval_every_steps": None,
    "eval_every_epochs": None,
    "checkpoint_every_steps": None,
    "checkpoint_every_epochs": None,
    "checkpoint_keep": 2,
    "log_every_steps": 50,
    "init_from": "",
    "eval_train": False,
    "model.units": [3, 3, 3],
    "model.widths": [16, 32, 64],
    "model.squeeze": 0,
    "model.groups": 1,
    "model.excitation": 0,
    "model.stem_raw": False,
    "model.unit": "basic",
    "model.order": "original",
    "model.stem": "conv3",
    "model.stem_width": 16,
    "model.stride_on": "1x1",
    "model.shortcut": "A",
    "model.shortcut_pool": False,
    "model.shortcut_scale": 1.0,
    "model.branch_scale": 1.0,
    "model.shortcut_dropout": 0.0,
    "model.gate": "none",
    "model.gate_layers": "conv1",
    "model.gate_bias": 0.0,
    "model.stochastic_depth": 0.0,
    "model.norm": "batch",
    "model.bn_group": 0,
    "model.bn_momentum": 0.9,
    "model.bn_epsilon": 1e-5,
    "model.zero_gamma": False,
    "model.activation": "relu",
    "model.init": "fan_out",
    "model.init_gain": 2.0,
    "model.dtype": "float32",
    "model.convolution": "auto",
    "model.scan": False,
    "model.remat": False,
    "model.output_stride": 0,
    "data.dir": "",
    "data.train_split": "train",
    "data.validation_split": "",
    "data.jitter": 0.0,
    "data.lighting": 0.0,
    "data.policy": "",
    "data.erase": 0.0,
    "data.train_image_size": 0,
    "data.interpolation": None,
    "data.crop_share": None,
    "data.decode": "full",
    "data.repeats": 1,
    "data.workers": 0,
    "data.placement": "auto",
    "data.skip_damaged": False,
    "data.split_seed": 0,
    "steps_per_call": 0,
    "loss.name": "softmax",
    "loss.threshold": 0.0,
    "mix.mixup": 0.0,
    "mix.cutmix": 0.0,
    "mix.definition": "timm",
    "mix.group": 0,
    "ema.decay": 0.0,
    "ema.every_steps": 1,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.1,
    "optimizer.reference_batch": 0,
    "optimizer.momentum": 0.9,
    "optimizer.beta2": 0.999,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 0.0001,
    "optimizer.decay_mask": "all",
    "optimizer.clip_norm": 0.0,
    "optimizer.accumulate": 1,
    "optimizer.label_smoothing": 0.0,
    "optimizer.freeze": [],
    "optimizer.head_multiplier": 1.0,
    "optimizer.layer_decay": 1.0,
    "schedule.name": "piecewise",
    "schedule.drop_steps": [],
    "schedule.drop_epochs": [],
    "schedule.drop_factor": 0.1,
    "schedule.final_rate": 0.0,
    "schedule.warmup": "none",
    "schedule.warmup_rate": 0.01,
    "schedule.warmup_steps": None,
    "schedule.warmup_epochs": None,
    "mesh.data": -1,
    "mesh.fsdp": 1,
}

# v1 section 4.2: 64k iterations, a tenth of the rate at 32k and 48k, two GPUs of 64 images.
CIFAR10 = {
    "data.name": "cifar10",
    "total_steps": 64_000,
    "eval_every_steps": 2_000,
    "schedule.drop_steps": [32_000, 48_000],
    "model.bn_group": 64,
    "optimizer.decay_mask": "kernels",
}
# v1 section 4.2 for 110 layers, v2 appendix: 0.01 for the first 400 iterations.
WARM = {"schedule.warmup": "constant", "schedule.warmup_steps": 400}

# v1 Table 1, ResNet-50, with the stride on the 3x3 convolution.
R50 = {
    "model.units": [3, 4, 6, 3],
    "model.widths": [256, 512, 1024, 2048],
    "model.unit": "bottleneck",
    "model.stem": "conv7",
    "model.stem_width": 64,
    "model.stride_on": "3x3",
    "model.shortcut": "B",
    "model.dtype": "bfloat16",
}
IMAGENET = {**R50, "data.name": "imagenet2012", "data.workers": 8, "data.augment": "resized_crop_flip"}
COSINE = {"schedule.name": "cosine", "schedule.warmup": "linear", "schedule.warmup_epochs": 5.0}
# arXiv 2110.00476, Table 2, what its three procedures share; timm's defaults of LAMB, and mmpretrain's 8 x 256.
RSB = {
    **IMAGENET,
    **COSINE,
    "batch_size": 2048,
    "data.image_size": 224,
    "data.train_image_size": 224,
    "data.interpolation": "bicubic",
    "data.crop_share": 0.95,
    "data.policy": "rand-m7-mstd0.5-inc1",
    "data.repeats": 3,
    "model.stochastic_depth": 0.05,
    "model.zero_gamma": True,
    "model.bn_group": 256,
    "optimizer.name": "lamb",
    "optimizer.learning_rate": 0.005,
    "optimizer.weight_decay": 0.02,
    "optimizer.decay_mask": "kernels",
    "optimizer.clip_norm": 1.0,
    "loss.name": "binary",
    "loss.threshold": 0.2,
    "mix.mixup": 0.1,
    "mix.cutmix": 1.0,
    "mix.group": 256,
    "schedule.final_rate": 0.000001,
    "schedule.warmup_rate": 0.0001,
}
# Our own, for photos and weights that saw more of them.
FINETUNE = {
    **COSINE,
    "batch_size": 32,
    "total_epochs": 20.0,
    "log_every_steps": 20,
    "data.name": "folder",
    "model.stem": "conv7",
    "model.stem_width": 64,
    "model.shortcut": "B",
    "optimizer.nesterov": True,
    "optimizer.decay_mask": "kernels",
    "optimizer.label_smoothing": 0.1,
    "schedule.warmup_rate": 0.0001,
    "schedule.warmup_epochs": 1.0,
}

RECIPES = {
    "digits.py": {
        "name": "digits-v1-20",
        "data.name": "digits",
        "total_epochs": 50.0,
        "eval_every_epochs": 5.0,
        "log_every_steps": 20,
        "optimizer.weight_decay": 0.002,
        "optimizer.label_smoothing": 0.1,
        "schedule.name": "cosine",
        "schedule.warmup": "linear",
        "schedule.warmup_epochs": 2.0,
    },
    "cifar10.py:v1-20": {"name": "cifar10-v1-20", **CIFAR10},
    "cifar10.py:v1-110": {"name": "cifar10-v1-110", **CIFAR10, **WARM, "model.units": [18, 18, 18]},
    "cifar10.py:v2-164": {
        "name": "cifar10-v2-164",
        **CIFAR10,
        **WARM,
        "model.units": [18, 18, 18],
        "model.widths": [64, 128, 256],
        "model.unit": "bottleneck",
        "model.order": "full_preactivation",
        "model.shortcut": "B",
    },
    # v1 section 3.4 and Table 1, with the drops of v2's appendix and FAIR's 90 epochs; eight GPUs of 32 images.
    "imagenet.py:v1-50": {
        "name": "imagenet-v1-50",
        "data.name": "imagenet2012",
        "data.augment": "scale_crop_flip",
        "data.normalize": "channel",
        "data.lighting": 0.1,
        "data.workers": 8,
        "batch_size": 256,
        "total_epochs": 90.0,
        "eval_every_epochs": 1.0,
        "schedule.drop_epochs": [30.0, 60.0],
        "model.units": [3, 4, 6, 3],
        "model.widths": [256, 512, 1024, 2048],
        "model.unit": "bottleneck",
        "model.stem": "conv7",
        "model.stem_width": 64,
        "model.shortcut": "B",
        "model.bn_group": 32,
        "model.dtype": "bfloat16",
        "optimizer.decay_mask": "kernels",
    },
    # arXiv 1706.02677 sections 2 to 5: 256 GPUs of 32 images.
    "imagenet_goyal.py:v1.5-50": {
        **IMAGENET,
        "name": "imagenet-goyal-v1.5-50",
        "batch_size": 8192,
        "total_epochs": 90.0,
        "data.augment": "fb_crop_flip",
        "data.interpolation": "bicubic",
        "model.bn_group": 32,
        "model.zero_gamma": True,
        "optimizer.learning_rate": 0.1,
        "optimizer.reference_batch": 256,
        "optimizer.nesterov": True,
        "optimizer.weight_decay": 0.0001,
        "optimizer.decay_mask": "kernels",
        "schedule.drop_epochs": [30.0, 60.0, 80.0],
        "schedule.warmup": "linear",
        "schedule.warmup_rate": 0.1,
        "schedule.warmup_epochs": 5.0,
    },
    # torchvision's references/classification: the defaults of its script on 8 GPUs, and the command of #3995.
    "imagenet_torchvision.py:v1": {
        **IMAGENET,
        "name": "imagenet-torchvision-v1",
        "batch_size": 256,
        "total_epochs": 90.0,
        "model.bn_group": 32,
        "schedule.drop_epochs": [30.0, 60.0],
    },
    "imagenet_torchvision.py:v2": {
        **IMAGENET,
        **COSINE,
        "name": "imagenet-torchvision-v2",
        "batch_size": 1024,
        "total_epochs": 600.0,
        "data.train_image_size": 176,
        "data.image_size": 224,
        "data.crop_share": pytest.approx(224 / 232),
        "data.policy": "trivial-wide",
        "data.erase": 0.1,
        "data.repeats": 4,
        "model.bn_group": 128,
        "optimizer.learning_rate": 0.5,
        "optimizer.weight_decay": 0.00002,
        "optimizer.decay_mask": "kernels",
        "optimizer.label_smoothing": 0.1,
        "mix.mixup": 0.2,
        "mix.cutmix": 1.0,
        "mix.definition": "torchvision",
        "mix.group": 128,
        "ema.decay": pytest.approx(0.99891, abs=5e-6),
        "ema.every_steps": 32,
        "schedule.warmup_rate": 0.005,
    },
    "imagenet_rsb.py:a1": {
        **RSB,
        "name": "imagenet-rsb-a1",
        "total_epochs": 600.0,
        "optimizer.weight_decay": 0.01,
        "optimizer.label_smoothing": 0.1,
        "mix.mixup": 0.2,
    },
    "imagenet_rsb.py:a2": {**RSB, "name": "imagenet-rsb-a2", "total_epochs": 300.0},
    "imagenet_rsb.py:a3": {
        **RSB,
        "name": "imagenet-rsb-a3",
        "total_epochs": 100.0,
        "data.train_image_size": 160,
        "data.policy": "rand-m6-mstd0.5-inc1",
        "data.repeats": 1,
        "model.stochastic_depth": 0.0,
        "optimizer.learning_rate": 0.008,
    },
    "imagenette.py:192,80": {
        **R50,
        **COSINE,
        "name": "imagenette-192-80",
        "batch_size": 64,
        "total_epochs": 80.0,
        "data.name": "folder",
        "data.image_size": 192,
        "data.augment": "resized_crop_flip",
        "model.stem": "deep",
        "model.shortcut_pool": True,
        "model.zero_gamma": True,
        "optimizer.nesterov": True,
        "optimizer.weight_decay": 0.0005,
        "optimizer.decay_mask": "kernels",
        "optimizer.label_smoothing": 0.1,
        "mix.mixup": 0.2,
        "schedule.warmup_epochs": 4.0,
    },
    # Our own; v1 Table 1, ResNet-18.
    "finetune.py:v1-18": {
        **FINETUNE,
        "name": "finetune-v1-18",
        "model.units": [2, 2, 2, 2],
        "model.widths": [64, 128, 256, 512],
        "optimizer.learning_rate": 0.005,
        "optimizer.head_multiplier": 10.0,
    },
    "finetune.py:v1.5-50,probe": {
        **R50,
        **FINETUNE,
        "name": "finetune-v1.5-50-probe",
        "model.dtype": "float32",
        "optimizer.learning_rate": 0.05,
        "optimizer.freeze": ["stem", "stage1", "stage2", "stage3", "stage4"],
    },
    "dense.py": {
        "name": "dense-v1-21",
        "data.name": "digits",
        "total_epochs": 60.0,
        "eval_every_epochs": 6.0,
        "schedule.name": "cosine",
        "schedule.warmup": "linear",
        "schedule.warmup_epochs": 2.0,
        "model.units": [5, 5],
        "model.widths": [64, 128],
        "model.unit": "dense",
        "model.stem": "none",
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name):
    found = flatten(plain(load([f"--config=configs/{name}"])))
    assert found == {**COMMON, **OPEN, **RECIPES[name]}


@pytest.mark.parametrize("name", ["digits.py:v1-20", "cifar10.py", "imagenet.py", "dense.py:v1-21"])
def test_the_network_that_is_meant_by_a_file_alone(name):
    file = name.partition(":")[0]
    whole = next(recipe for recipe in RECIPES if recipe.startswith(file))
    assert plain(load([f"--config=configs/{name}"])) == plain(load([f"--config=configs/{whole}"]))


@pytest.mark.parametrize("network", ["v1-20", "v1-32", "v1-44", "v1-56", "plain-20", "plain-56", "plain-110"])
def test_shallow_and_plain_networks_do_not_warm_up(network):
    """v1 section 4.2: only ResNet-110 does."""
    assert load([f"--config=configs/cifar10.py:{network}"]).schedule.warmup == "none"


@pytest.mark.parametrize(
    "network", ["v1-110", "v1-164", "v1-1001", "v1-1202", "v2-20", "v2-110", "v2-164", "v2-1001"]
)
def test_deep_and_preactivated_networks_warm_up(network):
    """v1 section 4.2 and v2's appendix."""
    schedule = load([f"--config=configs/cifar10.py:{network}"]).schedule
    assert (schedule.warmup, schedule.warmup_rate, schedule.warmup_steps) == ("constant", 0.01, 400)


@pytest.mark.parametrize(
    ("mask", "networks"),
    {
        "kernels": ["cifar10.py:plain-56", "cifar10.py:v2-164", "imagenet.py:v2-200", "imagenet.py:plain-34"],
        "all": ["cifar10.py:highway-110", "imagenet.py:v1.5-50", "imagenet.py:resnext-50-32x4d", "digits.py:v2-20"],
    }.items(),
)
def test_the_papers_networks_decay_weights_and_the_others_what_their_code_does(mask, networks):
    for network in networks:
        assert load([f"--config=configs/{network}"]).optimizer.decay_mask == mask, network


def test_the_papers_networks_are_trained_on_the_papers_views():
    views = {
        network: (data.augment, data.lighting)
        for network in ("v1-18", "v2-200", "plain-34", "v1.5-50", "se-50", "wide-50-2")
        for data in [load([f"--config=configs/imagenet.py:{network}"]).data]
    }
    papers, others = ("scale_crop_flip", 0.1), (None, 0.0)
    assert list(views.values()) == [papers, papers, papers, others, others, others]


@pytest.mark.parametrize("file", ["digits.py", "cifar10.py"])
def test_networks_of_more_than_60_units_are_scanned(file):
    scanned = {
        n: load([f"--config=configs/{file}:{n}"]).model.scan for n in ("v1-110", "v2-164", "v1-122", "v1-128")
    }
    assert scanned == {"v1-110": False, "v2-164": False, "v1-122": False, "v1-128": True}


@pytest.mark.parametrize(
    ("recipe", "steps", "expected"),
    [
        ("imagenet_goyal.py", 14_075, {0: 0.1, 5: 3.2, 29.9: 3.2, 30.1: 0.32, 60.1: 0.032, 80.1: 0.0032}),
        ("imagenet_goyal.py --config.batch_size=256", 450_410, {0: 0.1, 5: 0.1, 29.9: 0.1, 30.1: 0.01, 80.1: 1e-4}),
        ("imagenet_torchvision.py:v1", 450_410, {0: 0.1, 29.9: 0.1, 30.1: 0.01, 60.1: 0.001, 90: 0.001}),
        ("imagenet_torchvision.py:v2", 750_684, {0: 0.005, 2.5: 0.2525, 5: 0.5, 302.5: 0.25, 600: 0.0}),
        ("imagenet_rsb.py:a1", 375_342, {0: 1e-4, 5: 5e-3, 302.5: 2.5e-3, 600: 1e-6}),
        ("imagenet_rsb.py:a3", 62_557, {0: 1e-4, 5: 8e-3, 52.5: 4e-3, 100: 1e-6}),
    ],
)
def test_steps_and_rates_of_the_recipes_on_imagenet(recipe, steps, expected):
    """By epochs of 1,281,167 images."""
    config = load(f"--config=configs/{recipe}".split())
    plan = durations(config, 1_281_167)
    assert plan.total == steps
    rate = learning_rate(config, plan)
    found = {epoch: float(rate(round(epoch * plan.per_epoch))) for epoch in expected}
    assert found == pytest.approx(expected, rel=2e-3, abs=2e-7)


@pytest.mark.parametrize(
    ("spec", "units"),
    {
        "imagenet_rsb.py:a1,v1.5-101": 33,
        "imagenet_torchvision.py:v2,v1.5-18": 8,
        "imagenette.py:128,5,v1-34": 16,
    }.items(),
)
def test_a_recipe_with_another_network(spec, units):
    config = load([f"--config=configs/{spec}", "--config.data.name=folder", "--config.data.dir=D"])
    assert sum(config.model.units) == units
    assert config.name == spec.replace("_", "-").replace(".py:", "-").replace(",", "-")


@pytest.mark.parametrize(
    ("spec", "says"),
    {
        "imagenet_rsb.py:a4": "recipe='a4' is unknown; did you mean a3? (known: a1, a2, a3)",
        "imagenet_torchvision.py:v3": "recipe='v3' is unknown",
        "imagenette.py:128,10": "configs/imagenette.py:128,10: give SIZE,EPOCHS, such as 128,20",
        "imagenette.py:224,5": "configs/imagenette.py:224,5: give SIZE,EPOCHS",
        "finetune.py:v1-18,prob": "configs/finetune.py:v1-18,prob: give NETWORK or NETWORK,probe",
    }.items(),
)
def test_a_recipe_that_there_is_not(spec, says):
    with pytest.raises(BadInput) as error:
        load([f"--config=configs/{spec}"])
    assert says in str(error.value)
