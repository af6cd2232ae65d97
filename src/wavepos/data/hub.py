"""Any data set that the `datasets` package can stream: of the Hugging Face hub, or of a local folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from wavepos.data.corpus import Corpus, Split, digest, file_facts, is_valid, non_blank, valid_threshold

VALID_NAMES = ("validation", "valid", "dev", "val")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HubDataset(Corpus):
    """A data set streamed through `datasets`; one without a validation split is split by hash of the text.

    Attributes:
        path: org/name or name on the hub, or the path of a local folder.
        config: the configuration; None: the data set's only or default one.
        column: the column of the text; rows without text are left out.
        folder: the local folder, None for the hub.
    """

    path: str
    config: str | None
    column: str
    folder: Path | None

    def fingerprint(self) -> str:
        """Of a folder's files, or a hub data set's name, configuration and column (revisions go unseen)."""
        facts = []
        if self.folder is not None:
            facts = file_facts(self.folder, sorted(file for file in self.folder.rglob("*") if file.is_file()))
        return digest("hf", self.path, self.config, self.column, facts)

    def _documents(self, split: Split) -> Iterator[str]:
        splits = load_dataset(self.spec, self.path, self.config, streaming=True)
        if "train" not in splits:
            raise ValueError(f"corpus {self.spec!r}: must have a split 'train', has {', '.join(splits)}")
        own_valid = next((name for name in VALID_NAMES if name in splits), None)
        if own_valid is not None:
            return self._texts(splits["train" if split == "train" else own_valid])
        threshold = valid_threshold(self.spec, self._texts(splits["train"]))
        texts = self._texts(splits["train"])
        return (text for text in texts if is_valid(text, threshold) == (split == "valid"))

    def _texts(self, rows: Any) -> Iterator[str]:
        return non_blank(self._text(row, number) for number, row in enumerate(rows, start=1))

    def _text(self, row: dict[str, Any], number: int) -> str:
        place = f"corpus {self.spec!r}, row {number}"
        if self.column not in row:
            raise ValueError(f"{place}: no column {self.column!r}, it has {', '.join(row)}")
        text = row[self.column]
        if not isinstance(text, str | None):
            raise ValueError(f"{place}: column {self.column!r} must hold text, got {type(text).__name__}")
        return text or ""


def open_hub(spec: str, path_and_column: str) -> HubDataset:
    """A data set: name, org/name, org/name/config, or a local ./folder or /folder; #COLUMN may follow.

    Raises:
        FileNotFoundError: no such local folder.
        ValueError: a name of more than three parts.
    """
    path, _, column = path_and_column.partition("#")
    column = column or "text"
    if path.startswith((".", "~")) or Path(path).is_absolute():
        folder = Path(path).expanduser().resolve()
        if not folder.is_dir():
            raise FileNotFoundError(f"corpus {spec!r}: no such folder: {path}")
        name = folder.name
        return HubDataset(spec=spec, name=name, path=str(folder), config=None, column=column, folder=folder)
    parts = path.split("/")
    if not all(parts) or len(parts) > 3:
        raise ValueError(f"corpus {spec!r}: must be hf:NAME, hf:ORG/NAME, hf:ORG/NAME/CONFIG or hf:./FOLDER")
    name, config = "/".join(parts[:2]), parts[2] if len(parts) == 3 else None
    return HubDataset(spec=spec, name=parts[:2][-1], path=name, config=config, column=column, folder=None)


def load_dataset(spec: str, path: str, config: str | None, **options: Any) -> Any:
    """`datasets.load_dataset`, imported on first use.

    Raises:
        ImportError: the package is missing.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(f"corpus {spec!r} needs the package datasets: pip install wavepos[lab]") from error
    return datasets.load_dataset(path, config, **options)
