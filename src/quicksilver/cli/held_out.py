"""The held-out packages of a corpus, for what evaluates on them."""

from pathlib import Path

import numpy as np

from quicksilver.checkpoints.folder import TOKENIZER_FILE
from quicksilver.evaluation.data import file_hash
from quicksilver.evaluation.documents import Corpus
from quicksilver.tokenization.tokenizer import Tokenizer
from quicksilver.training.corpus.token_file import TokenFile

PUBLIC_TEST = "public_test"


def open_split(folder: Path, split: str = PUBLIC_TEST) -> Corpus:
    """A split of a folder that ``quicksilver corpus build`` wrote.

    Raises:
        CorpusError: it is not there, or damaged.
    """
    documents = TokenFile.open(folder, split)
    tokenizer = Tokenizer.load(folder / TOKENIZER_FILE)
    return Corpus(
        documents=documents,
        decode=tokenizer.decode,
        bytes_of_token=np.array([len(tokenizer.token_bytes(index)) for index in range(tokenizer.vocab_size)]),
        identity={"split": split, "tokens_sha256": file_hash(folder / f"{split}.bin")},
        tokenizer_fingerprint=tokenizer.fingerprint,
    )
