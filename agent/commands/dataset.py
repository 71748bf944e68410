"""dataset: recorded episodes to and from Minari."""

from pathlib import Path

from agent.commands import Job, say
from agent.commands.parser import Parser, check_writable


def prepare(arguments: list[str]) -> Job:
    """Read and check the episodes; the job writes them in the other form."""
    parser = Parser("dataset")
    parser.add_argument("action", choices=("export", "import"), help="export: to Minari; import: to a folder")
    source = parser.add_mutually_exclusive_group(required=True)
    kinds = "a folder of `collect`, a run's folder, a folder of .npz files, or minari:NAME"
    source.add_argument("data", nargs="?", help=f"{kinds}; with import also NAME alone")
    source.add_argument("--logdir", help="the same, for a run's folder")
    parser.add_argument("--out", required=True, help="export: NAME of a new dataset; import: a new folder")
    options, _ = parser.parse(arguments)
    from agent.run_folder.datasets import MINARI, FolderWriter, check_empty, open_dataset
    from envs.pixels import observation_space
    from replay.minari_format import check_new, write_minari

    place = options.data if options.data is not None else options.logdir
    target = options.out.removeprefix(MINARI)
    if options.action == "export":
        check_new(target)
    else:
        check_empty(Path(target))
        check_writable(Path(target), "out")
        if not Path(place).exists() and not place.startswith(MINARI):
            place = f"{MINARI}{place}"
    dataset = open_dataset(place)
    mean = sum(dataset.returns) / len(dataset.returns)
    found = f"{len(dataset.lengths):,} episodes, {dataset.num_rows:,} rows, mean return {mean:.2f}"

    def export() -> None:
        seen = observation_space(dataset.size, dataset.vector_dim)
        write_minari(target, dataset.read(), seen, dataset.action_dim, dataset.is_discrete, vars(dataset.about))
        say(f"written to {MINARI}{target}: {found}")

    def bring() -> None:
        writer = FolderWriter(Path(target), dataset.about)
        for episode in dataset.read():
            writer.add(episode)
        say(f"written to {target}: {found}")

    return export if options.action == "export" else bring
