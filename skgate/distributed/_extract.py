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

from skgate._base import Interval, find_stack_level, set_module, validate_params
from skgate.activations._transformer import ActivationTransformer
from skgate.distributed._reader import ActivationReader
from skgate.distributed._row_error import find_message

if TYPE_CHECKING:
    from ray.data import Dataset

_NO_ROWS = "Got a dataset without rows, expected at least 1 prompt."


@set_module("skgate.distributed")
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
    """Extract the activations of a data set of any size with Ray Data, into Parquet files.

    The rows stream from the input through a pool of actors, each with its own model, to the
    output. They are never all in memory. Each row is written exactly once, even if actors die: Ray
    restarts them and repeats their batches. The order of the rows is not kept.

    Parameters
    ----------
    dataset : ray.data.Dataset, str or path
        Rows to process. A str or path is a Parquet file or a folder of Parquet files, as for
        ``ray.data.read_parquet``.
    transformer : ActivationTransformer
        Transformer that extracts the activations. Its model and tokenizer must be ids, or paths
        that exist on each node. If its ``store`` is a folder, each node caches its activations
        there and reuses them in later calls.
    output : str or path
        Folder to create, on a disk that all nodes of the cluster share. It appears when all files
        are written. Until then they are in ``<output>.incomplete-<number>`` beside it. The files
        hold all columns of the input, so also the texts of the prompts.
    prompt_column : str, default="prompt"
        Column with the prompts: each a str (one user turn) or a conversation (list of
        ``{"role", "content"}`` dicts).
    output_column : str, default="activations"
        Column to add to those of the input.
    concurrency : int or (int, int), default=1
        Number of actors. A pair gives the smallest and the largest number, and Ray scales
        between them. One CPU must remain free for reading and writing.
    num_cpus : float or None, default=None
        CPUs per actor, which is also its number of torch threads. None means 1 for actors
        without a GPU, else 0.
    num_gpus : float or None, default=None
        GPUs per actor. Set it if the model runs on GPUs. With None, Ray gives actors no GPU, or
        lets all of them use the first GPU, depending on its version.
    batch_size : int, default=1024
        Rows per task of an actor. Each batch becomes one file, and is computed again if its actor
        dies. The transformer's ``batch_tokens`` limits how much runs through the model at once.

    Returns
    -------
    output : Path
        Folder with the Parquet files. Activations are in a column of fixed-size lists of
        ``n_layers * d`` float32, in the layout of :meth:`ActivationTransformer.transform`.

    Raises
    ------
    ImportError
        If Ray Data is not installed.
    FileExistsError
        If ``output`` exists.
    OSError
        If the output can't be written, or if somebody else creates ``output`` in the meantime.
        The message then says where the finished files are.
    TypeError
        If ``dataset`` has another type, or if the model or tokenizer of the transformer is a live
        object, which can't be sent to an actor.
    ValueError
        If a column is missing or would be overwritten, a Parquet file has another extension,
        there are no rows, or a prompt is missing, empty or too long. The message identifies the
        row by its numbers and ids. Nothing is written then.
    RuntimeError
        If the output has more or fewer rows than the input, where that number is known.

    Warns
    -----
    UserWarning
        If the actors leave no CPU for reading and writing. Ray then waits until the cluster grows.

    See Also
    --------
    ActivationTransformer : Extracts activations in one process, for prompts in memory.

    Notes
    -----
    The function uses the cluster of ``ray.init``, or else a local one that Ray starts. skgate must
    be installed on each node. Ray shows and logs the progress. To turn this off, set
    ``ray.data.DataContext.get_current().enable_progress_bars = False``.

    A gate can't tell where activations from a file were read, so pass their source to ``fit``:
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
    pickle.dumps(transformer)  # raises an error for a live model
    transformer = _with_absolute_paths(transformer)
    least, most = _check_concurrency(concurrency)
    folder = _check_output(output)
    rows, n_rows = _open(ray, dataset)
    _check_dataset(rows, n_rows, prompt_column, output_column)
    _warn_if_no_cpu_remains(ray, least, num_cpus if num_cpus is not None else float(not num_gpus))
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
        write_files(ray, activations, incomplete, n_rows)
    except BaseException:
        shutil.rmtree(incomplete, ignore_errors=True)
        raise
    try:
        incomplete.rename(folder)
    except OSError as error:
        raise type(error)(
            error.errno,
            f"The finished files can't be moved to output={str(folder)!r} "
            f"({'it was created in the meantime' if folder.exists() else error.strerror}). They "
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
            f"skgate.distributed needs Ray Data ({error}): "
            "pip install '.[ray]' in the checkout of skgate."
        ) from error
    return ray


def _with_absolute_paths(transformer: ActivationTransformer) -> ActivationTransformer:
    """Make paths absolute: workers run in other folders than this process."""
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
            f"Got concurrency={concurrency!r}, expected a number of actors, or the smallest and "
            "the largest number, such as (1, 8)."
        )
    return sizes


def _check_output(output: str | os.PathLike[str]) -> Path:
    if "://" in os.fspath(output):
        raise ValueError(
            f"Got output={os.fspath(output)!r}, which is a URI, expected a folder on a disk that "
            "all nodes share. Only there, a finished output can appear in a single step."
        )
    folder = Path(output).expanduser().absolute()
    if folder.exists():
        raise FileExistsError(f"Got output={str(folder)!r}, which exists, expected a new folder.")
    return folder


def _open(ray: Any, dataset: Any) -> tuple[Dataset, int | None]:
    """Return the data set, and its number of rows if that is known without computing it."""
    if isinstance(dataset, str | os.PathLike):
        location = _locate(dataset)
        _check_names(location)
        found = ray.data.read_parquet(location)
        return found, found.count()
    if not isinstance(dataset, ray.data.Dataset):
        raise TypeError(
            f"Got dataset of type {type(dataset).__name__}, expected a ray.data.Dataset (such as "
            "ray.data.from_pandas(frame)) or the path of Parquet files."
        )
    known = isinstance(dataset, ray.data.dataset.MaterializedDataset)
    return dataset, dataset.count() if known else None


def _locate(dataset: str | os.PathLike[str]) -> str:
    """Return a URI unchanged, and a path in a form that is valid in every process."""
    location = os.fspath(dataset)
    if "://" in location:
        return location
    path = Path(location).expanduser().absolute()
    if not path.exists():
        raise FileNotFoundError(
            f"Got dataset={str(path)!r}, which doesn't exist, expected Parquet files."
        )
    return str(path)


def _check_names(location: str) -> None:
    """Raise an error for Parquet files that Ray would silently ignore because of their names."""
    for path in [Path(location), *Path(location).rglob("[!._]*")]:
        named = path.name.lower().endswith(".parquet")
        if path.is_file() and not named and _is_parquet(path):
            raise ValueError(
                f"Got dataset={location!r} with the Parquet file {str(path)!r}, expected names "
                "that end in .parquet: Ray ignores the others."
            )


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _check_dataset(
    dataset: Dataset, n_rows: int | None, prompt_column: str, output_column: str
) -> None:
    if dataset.context.max_errored_blocks != 0:
        raise ValueError(
            f"Got dataset.context.max_errored_blocks={dataset.context.max_errored_blocks}, "
            "expected 0. Otherwise Ray drops rows without an error."
        )
    columns = dataset.columns() if n_rows != 0 else None
    if not columns:
        raise ValueError(_NO_ROWS)
    if prompt_column not in columns:
        raise ValueError(f"Got prompt_column={prompt_column!r}, expected one of {columns}.")
    if output_column in columns:
        raise ValueError(
            f"Got output_column={output_column!r}, expected a name that is not among the columns "
            f"{columns}."
        )


def _warn_if_no_cpu_remains(ray: Any, n_actors: int, num_cpus: float) -> None:
    available = ray.cluster_resources().get("CPU", 0)
    if n_actors * num_cpus > available - 1:
        warnings.warn(
            f"{n_actors} actors of {num_cpus:g} CPUs leave none of the cluster's {available:g} "
            "CPUs for reading and writing, so Ray waits until the cluster grows. If it doesn't "
            "grow, lower concurrency or num_cpus.",
            UserWarning,
            stacklevel=find_stack_level(),
        )


def write_files(ray: Any, activations: Dataset, folder: Path, n_rows: int | None) -> None:
    """Write the files and count their rows. A repeated task overwrites its own file."""
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
            f"Got {written} rows from Ray, expected the {n_rows} of the dataset. The output was "
            "removed."
        )
