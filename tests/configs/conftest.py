"""Noise instead of images that are not here."""

NOISE = '{{"class_path": "NoiseImages", "init_args": {{"like": {{"class_path": "{like}"}}, "num_train": 40, {test}}}}}'
PUBLISHED = ("FashionMNISTImages", "CIFAR10Images", "CIFAR100Images", "CIFAR5mImages", "FolderImages")


def replaced(text: str) -> list[str]:
    """Options that put noise in the place of a published set.

    Args:
        text: of a configuration.
    """
    published = next((name for name in PUBLISHED if name in text), None)
    if published is None:
        return []
    if "DataFraction" not in text:
        sizes = ["--data.train_size=null", "--data.probe_train_size=null", "--data.val_size=8"]
        return ["--data.dataset=" + NOISE.format(like=published, test='"num_test": 20'), *sizes]
    if published != "FolderImages":
        sizes = ["--data.data.train_size=40", "--data.data.test_size=20", "--data.allow_empty_classes=true"]
        sizes += ["--data.teacher_size=20"] if "teacher_size" in text else []
        return ["--data.data.dataset=" + NOISE.format(like=published, test='"num_test": 20'), *sizes]
    # of a folder nothing is known that is not there; its images are resized
    noise = NOISE.format(like="CIFAR10Images", test='"num_test": 20, "size": 32')
    return [f"--data.data.dataset={noise}", "--data.data.image_size=32", "--data.data.num_workers=0"]
