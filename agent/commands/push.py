"""push: upload an agent to the Hugging Face Hub."""

from pathlib import Path

from agent.commands import Job, say
from agent.commands.export import add_commit, chosen_commit, describe, exported
from agent.commands.parser import Parser, add_source


def prepare(arguments: list[str]) -> Job:
    """Load an agent and check the login; the job uploads its file and its model card in one commit."""
    parser = Parser("push")
    add_source(parser)
    parser.add_argument("--hub", required=True, metavar="USER/NAME", help="the repository, created if there is none")
    parser.add_argument("--private", action="store_true", help="create a repository that only its owner sees")
    add_commit(parser)
    options, _ = parser.parse(arguments)
    if options.agent is not None and options.commit is not None:
        raise ValueError("commit: got one for a file that has a card, expected it with --logdir")
    from agent.run_folder import hub
    from agent.run_folder.agent_file import agent_bytes, read_agent_file
    from agent.run_folder.places import find_agent

    if options.agent is not None:
        path: Path = find_agent(options.agent)
        card, content = read_agent_file(path).card, path.read_bytes()
    else:
        card, weights = exported(options.logdir, chosen_commit(options))
        content = agent_bytes(card, weights)
    hub.check_login(options.hub)

    def job() -> None:
        address = hub.publish(options.hub, content, card, options.private)
        say(describe(card))
        say(f"uploaded to {address} ({len(content) / 1e6:.2f} MB)")

    return job
