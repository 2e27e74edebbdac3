"""``dinopl configs``: the shipped configurations, from a clone and from an installed wheel alike."""

import sys
from collections.abc import Sequence
from pathlib import Path

import dinopl
from dinopl.core.errors import UserMistake
from dinopl.core.files import replacing

USAGE = "dinopl configs ls | show NAME | cp NAME [DIRECTORY] | schema [FILE]"


def config_root() -> Path:
    """The folder of the shipped configurations."""
    package = Path(dinopl.__file__).parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def config_names() -> list[str]:
    """Names of the shipped configurations, as ``configs cp`` takes them."""
    root = config_root()
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml"))


def config_name(file: str) -> str:
    """The name that a path such as ``configs/dinopl/fashion_mnist.yaml`` has in ``config_names``."""
    return file.removeprefix("configs/").removesuffix(".yaml")


def shipped_config(file: str) -> Path | None:
    """The shipped configuration that a path or name stands for; None if there is none, or more than one."""
    found = _named(file)
    return config_root() / f"{found[0]}.yaml" if len(found) == 1 else None


def _named(file: str) -> list[str]:
    """The shipped configurations that a path or name stands for, with or without its folder."""
    wanted, names = config_name(file), config_names()
    return [n for n in names if n == wanted] or [n for n in names if n.rsplit("/", 1)[-1] == wanted]


def find_config(name: str) -> Path:
    """The shipped configuration ``name``, with or without folder and ending.

    Raises:
        UserMistake: if there is none, or more than one.
    """
    found = shipped_config(name)
    if found is None and (several := _named(name)):
        raise UserMistake(f"configs: {name} is more than one: {', '.join(several)}; name the folder too.")
    if found is None:
        raise UserMistake(f"configs: {name} is not among the shipped ones; `dinopl configs ls` lists them.")
    return found


def title(path: Path) -> str:
    """The first comment line of a configuration."""
    return path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")


def configs(arguments: Sequence[str]) -> int:
    """Runs ``dinopl configs`` with the arguments after the word ``configs``."""
    match list(arguments):
        case ["ls"]:
            names = config_names()
            width = max(map(len, names))
            sys.stdout.writelines(f"{n:<{width}}  {title(config_root() / f'{n}.yaml')}\n" for n in names)
        case ["show", name]:
            sys.stdout.write(find_config(name).read_text(encoding="utf-8"))
        case ["cp", name, *rest] if len(rest) <= 1:
            source = find_config(name)
            target = Path(rest[0] if rest else ".") / source.name
            if target.exists():
                raise UserMistake(f"configs cp {name}: {target} exists; remove it, or name another directory.")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with replacing(target) as temporary:
                    temporary.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
            except OSError as error:  # a file in its place, no permission, no space
                raise UserMistake(f"configs cp {name}: {target}: {error.strerror}; name another directory.") from error
            sys.stdout.write(f"{target}\n")
        case ["schema", *rest] if len(rest) <= 1 and not "".join(rest).startswith("-"):
            from dinopl.cli.tools.schema import as_text, build_schema

            text = as_text(build_schema())
            try:
                if rest and Path(rest[0]).is_file() and "$schema" not in Path(rest[0]).read_text(encoding="utf-8"):
                    raise UserMistake(f"configs schema {rest[0]}: exists and is no schema; name another file.")
                Path(rest[0]).write_text(text, encoding="utf-8") if rest else sys.stdout.write(text)
            except OSError as error:
                raise UserMistake(f"configs schema {rest[0]}: {error.strerror}; name another file.") from error
        case ["--help" | "-h"]:
            sys.stdout.write(f"usage: {USAGE}\n")
        case _:
            raise UserMistake(f"configs {' '.join(arguments)}: usage is {USAGE}.")
    return 0
