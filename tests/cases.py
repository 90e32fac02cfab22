"""One row per method gives it every shared test in tests/distillers/test_contract.py."""

from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A method under settings small enough for tests.

    Args:
        name: as registered (DISTILLER.TYPE).
        overrides: config keys that differ from the defaults.
        refuses: the pairs "teacher/student" of test_pairs.py that it cannot train, each with a
            pattern of its error.
        untrained: prefixes of parameters that the method leaves alone on purpose, such as a head it
            replaces.
    """

    name: str
    overrides: dict[str, object] = field(default_factory=dict)
    refuses: dict[str, str] = field(default_factory=dict)
    untrained: tuple[str, ...] = ()


UNEQUAL_CHANNELS = (
    "wrn_40_2/wrn_40_1",
    "ResNet50/MobileNetV2",
    "resnet32x4/ShuffleV1",
    "resnet32x4/ShuffleV2",
    "vgg13/MobileNetV2",
    "ResNet50/vgg8",
    "wrn_40_2/ShuffleV1",
)
CASES = [
    Case("NONE"),
    Case("KD"),
    Case("DKD"),
    Case("CRD", {"CRD.NCE.K": 16}),
    Case("SDKD"),
    Case("DML"),
    Case("SRRL", {"SRRL.KD_WEIGHT": 1.0}),
    Case("SEMCKD", {"SOLVER.BATCH_SIZE": 8}),
    Case("REVIEWKD"),
    Case("SIMKD", untrained=("student.fc.",)),
    Case("NORM", {"NORM.N": 2, "NORM.KD_WEIGHT": 0.5}),
    Case("SOTEACHER", {"SOTEACHER.TEACHER_EPOCHS": 2}),
    Case("DISTPRO", {"DISTPRO.SEARCH_EPOCHS": 2}),
    Case("AB"),
    Case("FT"),
    Case("FSP", refuses=dict.fromkeys(UNEQUAL_CHANNELS, "FSP needs equal channels in all maps")),
    Case("OFD"),
    Case("FITNET"),
    Case("AT"),
    Case("SP"),
    Case("CC"),
    Case("VID"),
    Case("RKD"),
    Case("PKT"),
    Case("NST"),
    Case("RLD"),
    Case("CTKD"),
    Case("ITRD"),
    Case("DIST"),
    Case("NORMKD"),
    Case("TTM"),
    Case("WTTM"),
    Case("CAT_KD"),
    Case("SDD"),
    Case("MLLD", {"DATASET.VIEWS": 2}),
    Case(
        "KDSVD",
        refuses=dict.fromkeys(UNEQUAL_CHANNELS, "KDSVD.FORM 'channels' needs equal channels"),
    ),
]


class Fixed(nn.Module):
    """A network whose logits are the same for every image: what a distiller does with given logits
    can be computed by hand.
    """

    def __init__(self, logits: Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, image: Tensor) -> tuple[Tensor, dict]:
        return self.logits + 0 * image.sum(), {}
