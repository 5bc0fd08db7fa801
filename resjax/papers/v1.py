"""Tables and figures of "Deep Residual Learning for Image Recognition" (arXiv 1512.03385).

Rows of other people's networks are left out.
"""

from resjax.papers import pictures
from resjax.papers.table import IMAGENET, MEAN, Ensemble, Picture, Published, Row, Table

# Depth -> CIFAR-10 test error and parameters, Table 6.
TABLE6 = {
    20: (Published(8.75), "0.27M"),
    32: (Published(7.51), "0.46M"),
    44: (Published(7.17), "0.66M"),
    56: (Published(6.97), "0.85M"),
    110: (Published(6.61, std=0.16, best=6.43, statistic=MEAN), "1.7M"),
    1202: (Published(7.93), "19.4M"),
}
FAIRS = (
    "The schedule is FAIR's (configs/imagenet.py): 90 epochs with drops at 30 and 60. BN keeps its running "
    "statistics."
)
CENTRE_CROP = f"The numbers are of 10 crops, the curves of one centre crop, which gives higher errors. {FAIRS}"


def resnet(depth: int) -> Row:
    """A CIFAR residual network with Table 6's number."""
    published, size = TABLE6[depth]
    return Row(f"resnet-{depth}", f"ResNet-{depth}", f"v1-{depth}", published, size=size)


def plain(depth: int, words: str = "") -> Row:
    """A plain CIFAR network: the same layers and parameters, no shortcuts."""
    note = "its error stays above 60 % and the figure leaves it out" if words else ""
    size = TABLE6[depth][1]
    return Row(f"plain-{depth}", f"plain-{depth}", f"plain-{depth}", Published(words=words), size=size, note=note)


def imagenet(depth: int, top1: float, top5: float | None = None, option: str = "") -> Row:
    """An ImageNet residual network; option B is the named network's own."""
    label = f"ResNet-{depth}" + (f" {option}" if option else "")
    name = f"resnet-{depth}" + (f"-{option}" if option else "")
    model = {"shortcut": option} if option in ("A", "C") else {}
    return Row(name, label, f"v1-{depth}", Published(top1, top5), model)


def imagenet_plain(depth: int, top1: float, top5: float | None = None) -> Row:
    """A plain ImageNet network."""
    return Row(f"plain-{depth}", f"plain-{depth}", f"plain-{depth}", Published(top1, top5))


TABLE2 = (
    imagenet_plain(18, 27.94),
    imagenet_plain(34, 28.54),
    imagenet(18, 27.88, option="A"),
    imagenet(34, 25.03, option="A"),
)

TABLE4 = (
    imagenet(34, 21.84, 5.71, "B"),
    imagenet(34, 21.53, 5.60, "C"),
    imagenet(50, 20.74, 5.25),
    imagenet(101, 19.87, 4.60),
    imagenet(152, 19.38, 4.49),
)
SIX = Ensemble(
    Row(
        "ensemble",
        "six networks together",
        "",
        Published(top5=3.57, words="top-5 3.57 (test set)"),
        note="here on the validation set: the test set's labels are not public; two of the paper's six have 152 "
        "layers, and it does not name the others: here they are the rest of Table 4",
    ),
    ("resnet-34-B", "resnet-34-C", "resnet-50", "resnet-101", "resnet-152", "resnet-152"),
)


def rate(rate: float) -> Row:
    """ResNet-20 with another initial rate; the paper names its choice, 0.1, and no other."""
    words = "chosen" if rate == 0.1 else ""
    return Row(
        f"rate-{rate}",
        f"ResNet-20, rate {rate}",
        "v1-20",
        Published(words=words),
        fields={"optimizer.learning_rate": rate},
        size=TABLE6[20][1],
    )


TABLES = (
    Table(
        "v1-table2",
        "plain and residual networks of 18 and 34 layers, ImageNet",
        "v1 Table 2: top-1 error, validation set",
        TABLE2,
        data=IMAGENET,
        views="ten",
        note=FAIRS,
    ),
    Table(
        "v1-table3",
        "plain-34 and residual networks of 34 to 152 layers with shortcuts A, B, C, ImageNet",
        "v1 Table 3: top-1 / top-5 error, validation set",
        (
            imagenet_plain(34, 28.54, 10.02),
            imagenet(34, 25.03, 7.76, "A"),
            imagenet(34, 24.52, 7.46, "B"),
            imagenet(34, 24.19, 7.40, "C"),
            imagenet(50, 22.85, 6.71),
            imagenet(101, 21.75, 6.05),
            imagenet(152, 21.43, 5.71),
        ),
        data=IMAGENET,
        views="ten",
        note=FAIRS,
    ),
    Table(
        "v1-table4",
        "single models of 34 to 152 layers, ImageNet",
        "v1 Table 4: top-1 / top-5 error of single models, validation set",
        TABLE4,
        data=IMAGENET,
        views="scales",
        note=FAIRS,
    ),
    Table(
        "v1-table5",
        "an ensemble of six networks, ImageNet",
        "v1 Table 5: top-5 error of the ensemble, test set; the rows above it are Table 4's, validation set",
        TABLE4,
        data=IMAGENET,
        views="scales",
        ensemble=SIX,
        note=FAIRS,
    ),
    Table(
        "v1-table6",
        "residual networks of 20 to 1202 layers, CIFAR-10",
        "v1 Table 6: test error",
        tuple(resnet(depth) for depth in TABLE6),
    ),
    Table(
        "v1-fig1",
        "plain-20 against plain-56, CIFAR-10: the deeper one is worse in training too",
        "v1 Fig. 1: curves, without numbers",
        (plain(20), plain(56)),
        training=True,
        pictures=(Picture("fig1.png", pictures.curves),),
    ),
    Table(
        "v1-fig4",
        "curves of plain and residual networks of 18 and 34 layers, ImageNet",
        "v1 Fig. 4: training error and centre-crop validation error; the numbers are Table 2's",
        TABLE2,
        data=IMAGENET,
        training=True,
        pictures=(
            Picture("fig4-plain.png", pictures.curves, ("plain-18", "plain-34")),
            Picture("fig4-resnet.png", pictures.curves, ("resnet-18-A", "resnet-34-A")),
        ),
        note=CENTRE_CROP,
    ),
    Table(
        "v1-fig6",
        "curves of plain and residual networks, CIFAR-10",
        "v1 Fig. 6: curves; the numbers are Table 6's test errors",
        (
            *(plain(depth, "above 60" if depth == 110 else "") for depth in (20, 32, 44, 56, 110)),
            *map(resnet, TABLE6),
        ),
        training=True,
        pictures=(
            Picture(
                "fig6-plain.png", pictures.curves, ("plain-20", "plain-32", "plain-44", "plain-56", "plain-110")
            ),
            Picture(
                "fig6-resnet.png",
                pictures.curves,
                ("resnet-20", "resnet-32", "resnet-44", "resnet-56", "resnet-110"),
            ),
            Picture("fig6-1202.png", pictures.curves, ("resnet-110", "resnet-1202")),
        ),
        note="The paper adds that ResNet-1202 ends below 0.1 % training error.",
    ),
    Table(
        "v1-fig7",
        "standard deviations of layer responses, CIFAR-10",
        "v1 Fig. 7: responses of every 3x3 layer, after BN; the numbers are Table 6's test errors",
        (plain(20), plain(56), resnet(20), resnet(56), resnet(110)),
        pictures=(Picture("fig7.png", pictures.responses),),
    ),
    Table(
        "v1-split",
        "initial rates of ResNet-20 on 45k/5k images, CIFAR-10: how a recipe is chosen",
        "v1 section 4.2: the recipe was determined on a split of 45k and 5k training images; no numbers",
        tuple(map(rate, (0.01, 0.03, 0.1, 0.3))),
        data=("cifar10",),
        validation=True,
        pictures=(Picture("split.png", pictures.curves),),
        note="The candidates are ours: the paper names only what it chose. Its networks then train on all 50k.",
    ),
)
