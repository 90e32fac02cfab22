"""The CIFAR model zoo: names, state-dict keys and outputs equal mdistiller's.

Checkpoints therefore load both ways. Every model maps images [N, 3, H, W] to
`(logits [N, K], feats)`; `base.Feats` says what `feats` holds.
"""

from torch import nn

from sdkd_plugin.errors import UserError
from sdkd_plugin.models.adopted import adopt_built
from sdkd_plugin.registry import MODELS

# weights that mdistiller offers
PUBLISHED_TEACHERS = ("resnet56", "resnet110", "resnet32x4", "ResNet50", "wrn_40_2", "vgg13")


def build_model(name: str, num_classes: int) -> nn.Module:
    """Builds a freshly initialised model of the zoo, of a library, or from outside; one that
    returns logits alone is watched as a library's is.

    Args:
        name: a name registered in `MODELS`, such as "resnet20".
        num_classes: length of the logits, at least 1.

    Raises:
        UserError: the name is unknown (the nearest known one is named), there are no classes, or
            what `adopt_built` says of one from outside.
    """
    entry = MODELS[name]
    if num_classes < 1:
        raise UserError(
            f"num_classes is {num_classes} for model {name!r}: it must be at least 1; "
            "look at the data set's labels"
        )

    return adopt_built(entry.build(num_classes), name, entry.info.get("size"))


def teacher_checkpoint(name: str) -> str:
    """Returns where a trained teacher's weights lie, in mdistiller's layout.

    The path is relative to the working directory.

    Raises:
        UserError: the name is unknown.
    """
    return f"download_ckpts/cifar_teachers/{MODELS[name].name}_vanilla/ckpt_epoch_240.pth"
