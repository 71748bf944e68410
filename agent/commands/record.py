"""record: a video of whole episodes, or of what the world model dreams of one."""

from pathlib import Path

from agent.command_line import check_at_least, check_writable, load_agent, run_parser
from agent.commands import Job, say


def prepare(arguments: list[str]) -> Job:
    """Load the agent of a run; write a video of its episodes, or of its world model's dream."""
    parser = run_parser("record")
    parser.add_argument("--out", type=Path, help="an .mp4 or .gif file (default: <logdir>/videos/record.mp4)")
    parser.add_argument("--episodes", type=int, default=1, help="episodes in the video (default: 1)")
    parser.add_argument("--size", type=int, default=256, help="side of its frames in pixels (default: 256)")
    parser.add_argument("--dream", action="store_true", help="one episode: real | reconstruction | open-loop dream")
    options, _ = parser.parse(arguments)
    check_at_least(options, episodes=1, seed=0, size=16)
    name = "dream.mp4" if options.dream else "record.mp4"
    path = options.out if options.out is not None else options.logdir / "videos" / name
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"out: got '{path}', expected a name that ends in .mp4 or .gif")
    check_writable(path.parent, "out")
    agent = load_agent(options)

    def job() -> None:
        from agent.recording import record, record_dream

        if options.dream:
            scores = record_dream(agent, path, options.seed)
            ahead = "  ".join(f"+{k} {value:.2f}" for k, value in scores.open_loop.items())
            say(f"PSNR in dB: reconstruction {scores.reconstruction:.2f}  mean frame {scores.mean_frame:.2f}")
            say(f"  open loop, steps ahead: {ahead}")
        else:
            for result in record(agent, path, options.episodes, options.seed, options.size):
                say(f"return {result.total:.2f} in {result.length} agent_steps")
        say(f"written to {path}")

    return job
