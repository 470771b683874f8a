"""`archc demo`: from a spec to a model that writes, in about two minutes on two cores."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import click

from archc.cli._needs import require

if TYPE_CHECKING:
    from rich.console import Console

    from archc.cli._demo.training import Progress

SPEC = "deepseek_v3"
PROMPTS = ("The following statement", "If an exception")
"""What the trained model continues: the kind of sentence its text is made of."""
NEW_BYTES = 220
DRAFTS = 2

NEXT = (
    ("test {out}/{spec}", "the laws that the package carries, on its twin"),
    ("plan {spec}", "layers, graph and kernels"),
    ("cost {spec} --mode train --seq 8Ki", "another workload"),
    ("cost {spec} --explain params.by_component.experts", "one figure taken apart"),
    ("cost {spec} --set attention.kv_rank=256", "what a narrower latent would save"),
    ("drawers attention/mla", "what can be set"),
    ("cost deepseek_v4_flash", "its successor, at a million tokens"),
    ("check kimi_k2 gpt_oss_120b qwen3_235b_a22b", "its neighbours: a few lines each"),
)
"""Commands that a stranger may want to try, and what each does."""


@click.command()
@click.option("--seconds", type=click.FloatRange(min=1), default=60, show_default=True, help="Time to train.")
@click.option(
    "-o",
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/demo"),
    show_default=True,
    help="Where the packages go.",
)
@click.pass_context
def command(ctx: click.Context, seconds: float, out: Path) -> None:
    """Check, cost and build DeepSeek-V3, 671 billion parameters; train its tiny twin on bytes, and let it write."""
    from rich.console import Console

    from archc import resources

    console = Console(highlight=False)
    spec = resources.specs() / f"{SPEC}.arch"
    _title(console, "A model is a text")
    console.print(spec.read_text(encoding="utf-8").strip(), style="cyan", markup=False, soft_wrap=True)

    _title(console, "It is checked and costed before anyone trains it")
    _archc(ctx, console, "check", SPEC)
    console.print()
    _archc(ctx, console, "cost", SPEC)

    _title(console, "It becomes a PyTorch package that stands alone")
    _archc(ctx, console, "build", SPEC, "-o", str(out))
    code = (out / SPEC / "model.py").read_text(encoding="utf-8")
    experts = (out / SPEC / "fused" / "experts.py").read_text(encoding="utf-8")
    console.print(f"\nThe attention in its model.py, {code.count(chr(10)):,} lines in all, and its experts op by op:")
    for shown in (_text(code, "Attention", "forward"), _text(experts, "reference")):
        lines = _narrowed(shown, console.width)
        console.print(f"\n{lines}", style="cyan", markup=False, soft_wrap=True)
    console.print("\nand a twin of the same structure that fits any computer:\n")
    _archc(ctx, console, "build", SPEC, "--tiny", "-o", str(out / "tiny"))

    _title(console, f"The twin learns to write, in {seconds:.0f} seconds")
    require(("torch", "safetensors"))
    model = _train(console, out / "tiny" / SPEC, seconds)
    _title(console, "It continues sentences, with a cache")
    _write(console, model)
    _title(console, "It drafts with its own prediction module, and verifies")
    _speculate(console, model)

    _title(console, "What to try next")
    width = max(len(words.format(spec=SPEC, out=out)) for words, _ in NEXT)
    for words, meaning in NEXT:
        console.print(f"archc {words.format(spec=SPEC, out=out):{width}}  [dim]{meaning}[/dim]", soft_wrap=True)


def _title(console: Console, text: str) -> None:
    console.print()
    console.rule(f"[bold]{text}[/bold]", align="left", characters="-" if console.options.ascii_only else "─")
    console.print()


def _archc(ctx: click.Context, console: Console, *words: str) -> None:
    """Runs a command as if it had been typed."""
    from archc.cli import main

    console.print(f"[bold]$ archc {' '.join(words)}[/bold]", soft_wrap=True)
    run = main.get_command(ctx, words[0])
    assert run is not None
    run.main(list(words[1:]), prog_name=f"archc {words[0]}", standalone_mode=False)


def _text(code: str, *names: str) -> str:
    """The text of a function, or of a method of the first class whose name ends so."""
    body = ast.parse(code).body
    *classes, name = names
    for cls in classes:
        body = next(n for n in body if isinstance(n, ast.ClassDef) and n.name.endswith(cls)).body
    found = next(n for n in body if isinstance(n, ast.FunctionDef) and n.name == name)
    return dedent("\n".join(code.splitlines()[found.lineno - 1 : found.end_lineno]))


def _narrowed(text: str, width: int) -> str:
    """A text without its comments where they do not fit."""
    lines = text.splitlines()
    if max(map(len, lines)) > width:
        lines = [line.split("  # ")[0].rstrip() for line in lines]
    return "\n".join(lines)


# --- training ------------------------------------------------------------------------------------
def _train(console: Console, package: Path, seconds: float) -> Any:
    """The trained model; shows its progress as a bar on a terminal, and as a line at each measurement everywhere."""
    from rich.progress import BarColumn, Progress, TextColumn

    from archc.cli._demo import training
    from archc.cli._demo.text import corpus

    text = corpus()
    model = training.load_model(package)
    parameters = sum(p.numel() for p in model.parameters())
    console.print(
        f"{parameters:,} parameters; {len(text.train):,} bytes of Python's own help texts, one token each, "
        f"and {len(text.held_out):,} that it never sees.\n"
        f"Guessing blindly costs {math.log(model.vocab):.2f} nats a byte.\n"
    )
    console.print(f"{'step':>6}  {'train':>6}  {'held out':>8}  {'bytes/s':>8}", style="bold")
    columns = (
        BarColumn(bar_width=24),
        TextColumn("step {task.fields[step]:,}  loss {task.fields[loss]:.3f}  {task.fields[rate]:,.0f} bytes/s"),
        TextColumn("[dim]{task.fields[left]:.0f} s left[/dim]"),
    )
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task("training", total=1.0, step=0, loss=math.log(model.vocab), rate=0.0, left=seconds)
        for now in training.train(model, text, seconds):
            shown = {"step": now.step, "loss": now.loss, "rate": now.bytes_per_second, "left": seconds * (1 - now.done)}
            bar.update(task, completed=now.done, **shown)
            for line in _measured(now, math.log(model.vocab), ascii_only=console.options.ascii_only):
                bar.console.print(line)
    return model


def _measured(now: Progress, worst: float, *, ascii_only: bool) -> Iterator[str]:
    """A line about a step at which the held-out loss was measured, with a bar as long as that loss."""
    if now.held_out is not None:
        length = round(30 * min(1.0, now.held_out / worst))
        speed = f"{now.bytes_per_second:,.0f}" if now.step else ""
        shown = ("#" if ascii_only else "━") * length
        yield f"{now.step:6,}  {now.loss:6.3f}  {now.held_out:8.3f}  {speed:>8}  [green]{shown}[/green]"


def _write(console: Console, model: Any) -> None:
    """Prints what the model continues the prompt with, as it is made."""
    from archc.cli._demo.training import generate

    def write(piece: str) -> None:
        # Control characters would move the cursor
        shown = "".join(c if c.isprintable() or c == "\n" else "?" for c in piece)
        encoding = console.encoding or "utf-8"
        console.file.write(shown.encode(encoding, "replace").decode(encoding))
        console.file.flush()

    for prompt in PROMPTS:
        console.print(prompt, style="bold", end="")
        speed = generate(model, prompt, NEW_BYTES, write)
        console.print(f" ...\n\n[dim]{NEW_BYTES} bytes, {speed:,.0f} a second[/dim]\n")


def _speculate(console: Console, model: Any) -> None:
    """Prints how many passes the most likely text takes, one token at a time and with drafts."""
    from archc.cli._demo.training import most_likely

    plain, alone = most_likely(model, PROMPTS[0], NEW_BYTES, drafts=0)
    drafted, run = most_likely(model, PROMPTS[0], NEW_BYTES, drafts=DRAFTS)
    same = "the same" if drafted == plain else "other"
    console.print(
        f"{NEW_BYTES} bytes, the most likely each time: {alone.forwards} passes one by one, {run.forwards} with "
        f"{DRAFTS} drafts a pass,\nof which {run.acceptance or 0:.0%} were right; {same} bytes.",
        soft_wrap=True,
    )
