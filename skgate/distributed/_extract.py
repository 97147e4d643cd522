"""Extract the activations of a large data set on a Ray cluster."""

from __future__ import annotations

import os
import pickle
import shutil
import uuid
import warnings
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from skgate._base import Interval, validate_params
from skgate.activations._transformer import ActivationTransformer
from skgate.distributed._reader import ActivationReader
from skgate.distributed._row_error import find_message

if TYPE_CHECKING:
    from ray.data import Dataset

_NO_ROWS = "dataset has no rows; at least 1 prompt is required."


@validate_params(
    {
        "transformer": [ActivationTransformer],
        "output": [str, os.PathLike],
        "prompt_column": [str],
        "output_column": [str],
        "concurrency": [Interval(Integral, 1, None, closed="left"), tuple],
        "num_cpus": [None, Interval(Real, 0, None, closed="left")],
        "num_gpus": [None, Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
    },
    prefer_skip_nested_validation=True,
)
def extract(
    dataset: Dataset | str | os.PathLike[str],
    transformer: ActivationTransformer,
    output: str | os.PathLike[str],
    *,
    prompt_column: str = "prompt",
    output_column: str = "activations",
    concurrency: int | tuple[int, int] = 1,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    batch_size: int = 1024,
) -> Path:
    """Read the activations of a data set of any size with Ray Data, into a folder of Parquet files.

    The rows stream from the input through a pool of actors, each with a model of its own, to the
    output, and are never in memory all at once. Every row arrives once, whatever actors die in the
    meantime: Ray starts them anew and repeats the batches that they were at. The order of the rows
    is not kept.

    Parameters
    ----------
    dataset : ray.data.Dataset, str or path
        The rows. A str or path is a Parquet file or a folder of Parquet files, as
        ``ray.data.read_parquet`` takes it.
    transformer : ActivationTransformer
        Reads the activations. Its model, and its tokenizer if given, as an id or as a path that
        every node has. With a folder as its ``store``, each node keeps what it has computed, and
        doesn't compute it again in a later call.
    output : str or path
        A folder that doesn't exist yet, on a disk that all nodes of the cluster share. It appears
        when all is written; until then the files are in ``<output>.incomplete-<number>`` beside it.
    prompt_column : str, default="prompt"
        The column with the prompts: each a str (one user turn) or a conversation (list of
        ``{"role", "content"}``).
    output_column : str, default="activations"
        The column added to those of the input.
    concurrency : int or (int, int), default=1
        The number of actors; or the least and the most of them, as the cluster has room. One CPU
        has to be left for reading and writing.
    num_cpus : float or None, default=None
        CPUs, and so threads of torch, per actor. None: 1, or none besides a GPU.
    num_gpus : float or None, default=None
        GPUs per actor. Give it for a model on GPUs: with None, Ray gives the actors, depending on
        its version, no GPU, or all of them to crowd on the first.
    batch_size : int, default=1024
        Rows handed to an actor at a time, which are lost, and computed again, if it dies. Each
        batch is a file. The transformer's ``batch_tokens`` says how many go through the model
        at once.

    Returns
    -------
    output : Path
        The folder. Activations are in a column of fixed-size lists of ``n_layers * d`` float32,
        as :meth:`ActivationTransformer.transform` lays them out.

    Raises
    ------
    ImportError
        If Ray Data is not installed.
    FileExistsError
        If ``output`` exists.
    OSError
        If the output can't be written, or has appeared when all is written; the message says where
        the finished files are then.
    TypeError
        If ``dataset`` is something else, or the transformer's model or tokenizer is a live object,
        which can't be sent to an actor.
    ValueError
        If a column is missing or would be overwritten, a Parquet file of it has another
        extension, there are no rows, or the transformer
        refuses a prompt, as when it is missing, empty or too long. The message names the row by
        its numbers and ids. Nothing is written then.
    RuntimeError
        If the output has more or fewer rows than an input whose length is known.

    Warns
    -----
    UserWarning
        If the actors leave no CPU for reading and writing: Ray then waits until the cluster grows.

    See Also
    --------
    ActivationTransformer : Does the same in one process, for prompts in memory.

    Notes
    -----
    Runs on the cluster that ``ray.init`` was called for; Ray starts a local one otherwise. skgate
    has to be installed on each node. Ray shows the progress and logs it; to turn that off, set
    ``ray.data.DataContext.get_current().enable_progress_bars = False``.

    Numbers alone don't tell a gate where they were read, so tell it when it is fitted:
    ``gate.fit(X, y, activation_source=transformer.activation_source())``. This loads the model.

    Examples
    --------
    >>> from skgate import ActivationTransformer, distributed
    >>> transformer = ActivationTransformer("an/instruct-model", layer=15)
    >>> distributed.extract(
    ...     "prompts/", transformer, "activations/", concurrency=8, num_gpus=1
    ... )  # doctest: +SKIP
    >>> frame = pd.read_parquet("activations/")  # doctest: +SKIP
    >>> X = np.stack(frame["activations"])  # doctest: +SKIP
    """
    ray = _import_ray()
    pickle.dumps(transformer)  # its error says what to do about a live model
    transformer = _with_absolute_paths(transformer)
    least, most = _check_concurrency(concurrency)
    folder = _check_output(output)
    rows, n_rows = _open(ray, dataset)
    _check_dataset(rows, n_rows, prompt_column, output_column)
    _warn_of_waiting(ray, least, num_cpus if num_cpus is not None else float(not num_gpus))
    activations = rows.repartition(target_num_rows_per_block=batch_size).map_batches(
        ActivationReader,
        fn_constructor_args=(transformer, prompt_column, output_column),
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    incomplete = folder.with_name(f"{folder.name}.incomplete-{uuid.uuid4().hex[:8]}")
    incomplete.mkdir(parents=True)
    try:
        _write(ray, activations, incomplete, n_rows)
    except BaseException:
        shutil.rmtree(incomplete, ignore_errors=True)
        raise
    try:
        incomplete.rename(folder)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"the finished files can't take the name of output={str(folder)!r} "
            f"({'it has appeared in the meantime' if folder.exists() else error.strerror}); they "
            "are in",
            str(incomplete),
        ) from error
    return folder


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(
            f'skgate.distributed needs Ray Data ({error}): pip install "skgate[ray]"'
        ) from error
    return ray


def _with_absolute_paths(transformer: ActivationTransformer) -> ActivationTransformer:
    """Replace paths that are relative to where this process, but no worker, may be."""
    places = {name: getattr(transformer, name) for name in ("model", "tokenizer", "store")}
    folders = {
        name: os.path.abspath(place)
        for name, place in places.items()
        if isinstance(place, str | os.PathLike) and (name == "store" or os.path.isdir(place))
    }
    return clone(transformer).set_params(**folders)


def _check_concurrency(concurrency: Any) -> tuple[int, int]:
    sizes = concurrency if isinstance(concurrency, tuple) else (concurrency, concurrency)
    are_counts = all(isinstance(n, int | np.integer) and n >= 1 for n in sizes)
    if len(sizes) != 2 or not are_counts or sizes[0] > sizes[1]:
        raise ValueError(
            f"concurrency={concurrency!r}; expected a number of actors, or the least and the most "
            "of them, as (1, 8)."
        )
    return sizes


def _check_output(output: str | os.PathLike[str]) -> Path:
    if "://" in os.fspath(output):
        raise ValueError(
            f"output={os.fspath(output)!r} is a URI; expected a folder on a disk that all nodes "
            "share, since only there a finished output can appear in one step."
        )
    folder = Path(output).expanduser().absolute()
    if folder.exists():
        raise FileExistsError(f"output={str(folder)!r} exists; expected a new folder.")
    return folder


def _open(ray: Any, dataset: Any) -> tuple[Dataset, int | None]:
    """The data set, and its number of rows if that is known before it is computed."""
    if isinstance(dataset, str | os.PathLike):
        location = _locate(dataset)
        _check_names(location)
        found = ray.data.read_parquet(location)
        return found, found.count()
    if not isinstance(dataset, ray.data.Dataset):
        raise TypeError(
            f"dataset is of type {type(dataset).__name__}; expected a ray.data.Dataset (such as "
            "ray.data.from_pandas(frame)), or the path of Parquet files."
        )
    known = isinstance(dataset, ray.data.dataset.MaterializedDataset)
    return dataset, dataset.count() if known else None


def _locate(dataset: str | os.PathLike[str]) -> str:
    """The URI as it is, or the path as every process understands it."""
    location = os.fspath(dataset)
    if "://" in location:
        return location
    path = Path(location).expanduser().absolute()
    if not path.exists():
        raise FileNotFoundError(f"dataset={str(path)!r} doesn't exist; expected Parquet files.")
    return str(path)


def _check_names(location: str) -> None:
    """Keep Ray from leaving out Parquet files by their names, as it does without a word."""
    for path in [Path(location), *Path(location).rglob("[!._]*")]:
        named = path.name.lower().endswith(".parquet")
        if path.is_file() and not named and _is_parquet(path):
            raise ValueError(
                f"dataset={location!r}: Ray would leave out the Parquet file {str(path)!r}; "
                "expected names that end in .parquet."
            )


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _check_dataset(
    dataset: Dataset, n_rows: int | None, prompt_column: str, output_column: str
) -> None:
    if dataset.context.max_errored_blocks != 0:
        raise ValueError(
            f"dataset.context.max_errored_blocks={dataset.context.max_errored_blocks} lets Ray "
            "drop rows without an error; expected 0."
        )
    columns = dataset.columns() if n_rows != 0 else None
    if not columns:
        raise ValueError(_NO_ROWS)
    if prompt_column not in columns:
        raise ValueError(f"prompt_column={prompt_column!r} is not among the columns {columns}.")
    if output_column in columns:
        raise ValueError(
            f"output_column={output_column!r} is among the columns {columns} already; expected "
            "a new name."
        )


def _warn_of_waiting(ray: Any, n_actors: int, num_cpus: float) -> None:
    available = ray.cluster_resources().get("CPU", 0)
    if n_actors * num_cpus > available - 1:
        warnings.warn(
            f"{n_actors} actors of {num_cpus:g} CPUs leave none of the cluster's {available:g} for "
            "reading and writing; Ray waits until the cluster grows. Lower concurrency or "
            "num_cpus if it won't.",
            UserWarning,
            stacklevel=4,  # extract's caller, past validate_params
        )


def _write(ray: Any, activations: Dataset, folder: Path, n_rows: int | None) -> None:
    """Write the files, under names that a repeated task uses again, and count their rows."""
    import pyarrow.dataset
    import pyarrow.fs

    try:
        activations.write_parquet(
            str(folder),
            filesystem=pyarrow.fs.LocalFileSystem(),
            try_create_dir=False,  # a node that doesn't share the folder fails
        )
    except ray.exceptions.RayError as error:
        message = find_message(str(error))
        if message is None:
            raise
        raise ValueError(message) from error
    written = pyarrow.dataset.dataset(folder, format="parquet").count_rows()
    if written == 0:
        raise ValueError(_NO_ROWS)
    if n_rows is not None and written != n_rows:
        raise RuntimeError(
            f"Ray wrote {written} rows for {n_rows} of the dataset; the output was removed."
        )
