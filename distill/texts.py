"""Texts of a text-to-image training: prompts from a file, and the captions of a folder of images."""
from collections import Counter
from pathlib import Path

import data
from engine.errors import InputError
from engine.files import expecting

TEXT_COLUMNS = ("text", "caption", "prompt", "TEXT")            # looked for in this order


def text_column_of(names, given: str | None, option: str, where) -> str:
    """The column of texts that was given, or the first of the usual names. Raises InputError."""
    column = given or next((name for name in TEXT_COLUMNS if name in names), None)
    if column not in names:
        raise InputError(f"{option}: {where} has the columns {', '.join(names)}, expected "
                         f"{given or ' or '.join(TEXT_COLUMNS)}; name the column of texts with --text_column")
    return column


def read_prompts(path, column: str | None = None) -> list[str]:
    """Prompts of a text file, one a line, or of a column of a parquet file; says how many empty ones are passed over.

    Raises InputError for a file that is missing, of another kind or holds none.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"--prompts: {path}: no such file, expected .txt with a prompt on every line, or .parquet")
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet
        with expecting(path, "parquet file of prompts"):
            column = text_column_of(parquet.read_schema(path).names, column, "--prompts", path)
            found = parquet.read_table(path, columns=[column])[column].to_pylist()
    elif path.suffix == ".txt":
        with expecting(path, "text file of prompts"):
            found = path.read_text(encoding="utf-8").splitlines()
    else:
        raise InputError(f"--prompts: found {path}, expected .txt or .parquet; pickled prompts are never opened")
    wrong = next((text for text in found if text is not None and not isinstance(text, str)), None)
    if wrong is not None:
        raise InputError(f"--prompts: column {column} of {path} holds {wrong!r}, expected texts; name another one with "
                         "--text_column")
    prompts = [text.strip() for text in found if text and text.strip()]
    if not prompts:
        raise InputError(f"--prompts: {path}: holds no prompt, expected one at least")
    if len(prompts) < len(found):
        print(f"{path}: {len(found) - len(prompts)} of {len(found)} prompts are empty and passed over", flush=True)
    return prompts


def captions_of(dataset: str, split: str, column: str | None = None) -> list[str]:
    """The caption of every image of a local folder, in the order of `data.load_images`.

    From a column beside the images (metadata.jsonl, metadata.csv or parquet), else from a .txt file beside every image
    that is called like it. split: perhaps with a slice. Raises InputError where an image has none.
    """
    base, part = data.parse_split(split)
    folder = Path(dataset).expanduser()
    files = data.list_files(folder) if folder.is_dir() else []
    if not files:
        raise InputError(f"--dataset: {dataset}: found no folder with files, expected one of images with captions")
    tables = any(path.suffix in data.TABLE_SUFFIXES for path in files)
    if tables or any(path.name in data.METADATA_NAMES for path in files):
        import datasets
        where = {"path": str(folder)} if tables else {"path": "imagefolder", "data_dir": str(folder)}
        with expecting(folder, "data-set folder with captions"):
            table = datasets.load_dataset(**where, streaming=True)[base]
            chosen = text_column_of(list(data.columns_of(table)), column, "--dataset", folder)
            captions = [row[chosen] for row in table.select_columns([chosen])]
        names = [f"row {row}" for row in range(len(captions))]
    else:
        _, splits, open_source = data.find_folder(dataset, data.Form(), {})
        if base not in splits:
            raise data.unknown_split(dataset, base, splits)
        source = open_source(base, None)
        names = source.read(0, source.count)
        beside = [path.with_suffix(".txt") for path in names]
        twice = [path for path, number in Counter(beside).items() if number > 1]
        if twice:
            raise InputError(f"--dataset: {twice[0]} lies beside several images of that name; rename them")
        captions = [path.read_text(encoding="utf-8") if path.is_file() else None for path in beside]
    captions = [caption and caption.strip() for caption in captions]
    missing = [name for name, caption in zip(names, captions) if not caption]
    if missing:
        raise InputError(f"--dataset: {len(missing)} of {len(captions)} images of {dataset} have no caption, first "
                         f"{missing[0]}; write one into a .txt file of the same name beside it, or into the column "
                         "`text` of metadata.jsonl")
    return captions if part is None else captions[data.check_slice(part, len(captions), split)]
