"""Every key that is no method's own: its default, and beside it what it may hold."""

from typing import Any

from sdkd_plugin.allowed import (
    Above,
    Allowed,
    Anything,
    Between,
    FilePath,
    FolderName,
    Numbers,
    OneOf,
    SomeOf,
)

MOST_CLASSES = 10**6  # a bound for what no data set needs and no memory holds

TRAINER = "SOLVER.TRAINER"
OPTIMIZER = "SOLVER.OPTIMIZER"
DELTA = "SOLVER.DOT.DELTA"  # of no effect unless OPTIMIZER is DOT
DOT = "dot"

# Keys in this tree that mdistiller has keep its defaults, traps included, so that its yaml files
# mean the same here.
DEFAULTS: dict[str, Any] = {
    "EXPERIMENT": {
        "PROJECT": "distill",
        "NAME": "",  # empty: made from TAG and a hash of the resolved config
        "TAG": "default",
    },
    "DATASET": {
        # cifar100 | npz | imagefolder | webdataset | parquet | huggingface | digits |
        # torchvision:NAME
        "TYPE": "cifar100",
        "NUM_WORKERS": 2,  # threads that decode, and that resize for TRANSFORM imagenet
        "TEST": {"BATCH_SIZE": 64},
        # below: not in mdistiller
        "ROOT": "./data",  # a folder; for npz the file itself
        "DOWNLOAD": True,  # cifar100 and torchvision:NAME
        "CLASSES": 0,  # how many, for npz, tar or parquet that leave some out; 0: as the data say
        # cifar: padded crops of the stored size; imagenet: random crops resized to IMAGE_SIZE, and
        # for evaluation a centre crop; none: as stored, whatever AUGMENT says
        "TRANSFORM": "cifar",
        "AUGMENT": "crop_flip",  # crop_flip | crop | none
        "VIEWS": 1,  # of each training image; 2: another with RandAugment, for MLLD
        "MEAN": [],  # per channel, of pixel values in [0, 1]; empty: the data set's own
        "STD": [],
        "IMAGE_SIZE": 0,  # pixels, by area averaging; 0: as stored, of TRANSFORM imagenet 224
        "SUBSET": 1.0,  # fraction of the training images kept, class-balanced
        "VAL_FRACTION": 0.0,  # held out of training and evaluated INSTEAD of the test images
        # the next three are read by imagefolder, webdataset, parquet, huggingface and
        # torchvision:NAME
        # folder of the decoded images, which are mapped from there, or with DECODE always of their
        # digests; "": they are in memory, digests are made anew
        "CACHE": "",
        "DECODE": "once",  # once | always: anew each time, for TRANSFORM imagenet
        "BROKEN": "refuse",  # refuse | skip: what to do with images that cannot be decoded
    },
    "DISTILLER": {
        "TYPE": "NONE",
        "TEACHER": "ResNet50",
        "STUDENT": "resnet32",
        "TEACHER_CKPT": "",  # not in mdistiller; empty: mdistiller's place under download_ckpts/
    },
    "SOLVER": {
        # base | crd | phases: read by mdistiller only, here methods declare what they need; its
        # dot and crd_dot are OPTIMIZER dot here
        "TRAINER": "base",
        "BATCH_SIZE": 64,
        "EPOCHS": 240,
        "LR": 0.05,
        # multiply LR by LR_DECAY_RATE after each of these epochs
        "LR_DECAY_STAGES": [150, 180, 210],
        "LR_DECAY_RATE": 0.1,
        "WEIGHT_DECAY": 0.0001,
        "MOMENTUM": 0.9,
        "TYPE": "SGD",
        "DOT": {"DELTA": 0.075},  # of DOT's momenta: MOMENTUM - DELTA and MOMENTUM + DELTA
        # below: not in mdistiller
        "OPTIMIZER": "sgd",  # sgd | dot: two momenta, see docs/dot.md
        "SCHEDULE_EPOCHS": 0,  # epochs for which epoch-valued keys are written; 0: EPOCHS
        "SEED": 0,
        "DEVICE": "auto",  # auto | cpu | cuda | mps
        "PRECISION": "fp32",  # fp32 | bf16 | fp16
        "CHANNELS_LAST": True,
        "TF32": False,  # on CUDA: 10 bits of mantissa in convolutions and matrix products
        "THREADS": 0,  # of the CPU, kept on resume; 0: what torch takes, as by OMP_NUM_THREADS
    },
    "LOG": {
        "TENSORBOARD_FREQ": 500,  # has no effect in mdistiller, nor here
        "SAVE_CHECKPOINT_FREQ": 40,  # epochs between kept checkpoints
        "PREFIX": "./output",
        # True: the wandb tracker, as if TRACKERS named it. mdistiller's own default is True, which
        # asks for an account; here a file must say so
        "WANDB": False,
        # not in mdistiller: tensorboard | wandb | mlflow | trackio, any of them, offline unless
        # their own variables (WANDB_MODE, MLFLOW_TRACKING_URI) say otherwise
        "TRACKERS": ["tensorboard"],
    },
}

# What these keys may hold. Models and data sets are looked up in their registries instead.
ALLOWED: dict[str, Allowed] = {
    "EXPERIMENT.PROJECT": FolderName(),
    "EXPERIMENT.NAME": FolderName(),
    "EXPERIMENT.TAG": FolderName(),
    "DATASET.TYPE": Anything(),
    "DATASET.NUM_WORKERS": Between(0, 1024),
    "DATASET.TEST.BATCH_SIZE": Between(1),
    "DATASET.ROOT": FilePath(),
    "DATASET.DOWNLOAD": Anything(),
    "DATASET.CLASSES": Between(0, MOST_CLASSES),
    "DATASET.TRANSFORM": OneOf(("cifar", "imagenet", "none")),
    "DATASET.AUGMENT": OneOf(("crop_flip", "crop", "none")),
    "DATASET.VIEWS": Between(1, 2),
    "DATASET.MEAN": Numbers("three numbers, one per channel, or []", length=3, optional=True),
    "DATASET.STD": Numbers(
        "three numbers above 0, one per channel, or []", Above(0), length=3, optional=True
    ),
    "DATASET.IMAGE_SIZE": Between(0),
    "DATASET.SUBSET": Between(1e-9, 1.0),
    "DATASET.VAL_FRACTION": Between(0.0, 0.999),
    "DATASET.CACHE": FilePath(),
    "DATASET.DECODE": OneOf(("once", "always")),
    "DATASET.BROKEN": OneOf(("refuse", "skip")),
    "DISTILLER.TYPE": Anything(),
    "DISTILLER.TEACHER": Anything(),
    "DISTILLER.STUDENT": Anything(),
    "DISTILLER.TEACHER_CKPT": FilePath(),
    TRAINER: OneOf(("base", "crd", "phases")),
    "SOLVER.BATCH_SIZE": Between(1),
    "SOLVER.EPOCHS": Between(1),
    "SOLVER.LR": Between(0.0),
    "SOLVER.LR_DECAY_STAGES": Numbers("epochs, such as [150, 180, 210]"),
    "SOLVER.LR_DECAY_RATE": Between(0.0),
    "SOLVER.WEIGHT_DECAY": Between(0.0),
    "SOLVER.MOMENTUM": Between(0.0, 1.0),
    "SOLVER.TYPE": OneOf(("SGD",)),
    DELTA: Anything(),
    OPTIMIZER: OneOf(("sgd", DOT)),
    "SOLVER.SCHEDULE_EPOCHS": Between(0),
    "SOLVER.SEED": Between(0),
    "SOLVER.DEVICE": OneOf(("auto", "cpu", "cuda", "mps")),
    "SOLVER.PRECISION": OneOf(("fp32", "bf16", "fp16")),
    "SOLVER.CHANNELS_LAST": Anything(),
    "SOLVER.TF32": Anything(),
    "SOLVER.THREADS": Between(0, 1024),
    "LOG.TENSORBOARD_FREQ": Anything(),
    "LOG.SAVE_CHECKPOINT_FREQ": Between(1),
    "LOG.PREFIX": FilePath(),
    "LOG.WANDB": Anything(),
    "LOG.TRACKERS": SomeOf(("tensorboard", "wandb", "mlflow", "trackio")),
}

# Settings that had another name at first, or have one in mdistiller: {key: {value: (key, value)
# today}}. Keys that had one whatever their value are declared where their method is registered
# (`renamed`).
RENAMED_VALUES = {
    TRAINER: {
        "stages": (TRAINER, "phases"),
        "dot": (OPTIMIZER, DOT),
        "crd_dot": (OPTIMIZER, DOT),  # mdistiller's name for CRD under it
    }
}


def todays_setting(key: str, value: Any) -> tuple[str, Any]:
    """A setting's key and value as they are called today; `key` has no first name of its own."""
    names = RENAMED_VALUES.get(key, {})
    return names.get(value, (key, value)) if isinstance(value, str) else (key, value)
