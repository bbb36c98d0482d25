"""Page of the demo: caption a clip, caption it after examples, find clips by text.

    python app.py --model DIR [--clips DIR] [--port N]

Without arguments, the environment variables COSMO_MODEL and COSMO_CLIPS are used; a Space is set up that way.
"""

import argparse
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr


if TYPE_CHECKING or __package__:
    from demo.cards import CSS, Card, cards_html, strip_html
    from demo.engine import CaptionEngine, Demonstration
    from demo.media import PICTURE_SUFFIXES, VIDEO_SUFFIXES, Limits, Medium, frame_strip, read_medium
    from demo.shown_clips import ShownClips
else:
    from cards import CSS, Card, cards_html, strip_html
    from engine import CaptionEngine, Demonstration
    from media import PICTURE_SUFFIXES, VIDEO_SUFFIXES, Limits, Medium, frame_strip, read_medium
    from shown_clips import ShownClips


MAX_QUEUE = 16
"""People who may wait; the next one gets a message that the page is busy."""
NUM_RESULTS = 12
SESSION_S = 3600
"""Time after which uploads and examples are deleted, in seconds."""

SYSTEM_FONTS = ["ui-sans-serif", "system-ui", "sans-serif"]
THEME = gr.themes.Soft(
    primary_hue="indigo", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=["ui-monospace", "monospace"]
)


def build_page(captioner: CaptionEngine, index: ShownClips | None, limits: Limits) -> gr.Blocks:
    """Build the page for a loaded model.

    Args:
        captioner: the model.
        index: clips that can be searched; `None` if no folder of clips was given.
        limits: limits on what a visitor may send.
    """
    with gr.Blocks(title="CosMo", analytics_enabled=False, delete_cache=(SESSION_S, SESSION_S)) as page:
        gr.Markdown(
            "# CosMo\nDrop a clip or a picture and read what the model sees; teach it a style with examples; "
            "find clips with a sentence.",
            elem_id="title",
        )
        with gr.Tab("Caption", id="caption"):
            _caption_tab(captioner, index, limits)
        with gr.Tab("Few-shot", id="few-shot"):
            _few_shot_tab(captioner, limits)
        with gr.Tab("Search", id="search"):
            _search_tab(index, limits)
    return page


def _caption_tab(captioner: CaptionEngine, index: ShownClips | None, limits: Limits) -> None:
    def run(path: str | None) -> Iterator[tuple[Any, str]]:
        if path is None:
            yield "", ""
            return
        medium = _read(path, captioner, limits)
        yield _seen(medium), ""
        for text in _captions(captioner, medium):
            yield gr.skip(), text

    def run_sample(turn: int) -> Iterator[tuple[int, Any, str]]:
        assert index is not None  # otherwise there is no button
        medium = index.samples[turn % len(index.samples)]
        yield turn + 1, strip_html(frame_strip(medium), medium.name), ""
        for text in _captions(captioner, medium):
            yield turn + 1, gr.skip(), text

    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            file = _drop_zone("Clip or picture", "caption-file", limits)
            take = gr.Button("Take one of the clips", elem_id="take-sample", visible=index is not None)
            strip = gr.HTML(padding=False, elem_id="caption-strip")
        with gr.Column(scale=1, min_width=300):
            answer = _answer("caption-answer")
    _on(file.change, run, [file], [strip, answer])
    turn = gr.State(0)
    _on(take.click, run_sample, [turn], [turn, strip, answer])


def _few_shot_tab(captioner: CaptionEngine, limits: Limits) -> None:
    def add(path: str | None, text: str, shown: list[Demonstration]) -> tuple[Any, ...]:
        if path is None or not text.strip():
            raise gr.Error("An example is a clip or picture together with its text.", print_exception=False)
        if len(shown) >= limits.max_demonstrations:
            raise gr.Error(f"At most {limits.max_demonstrations} examples; clear them first.", print_exception=False)
        medium = _read(path, captioner, limits)
        grown = [*shown, Demonstration(medium=medium, text=_checked_text(text, limits))]
        return grown, _examples(grown), None, ""

    def run(path: str | None, shown: list[Demonstration]) -> Iterator[tuple[Any, str]]:
        if path is None:
            yield "", ""
            return
        medium = _read(path, captioner, limits)
        yield _seen(medium), ""
        for text in _captions(captioner, medium, shown):
            yield gr.skip(), text

    examples = gr.State([], time_to_live=SESSION_S)
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            gr.Markdown("### 1 · Show how it is done")
            example_file = _drop_zone("Example", "example-file", limits)
            example_text = gr.Textbox(
                label="Its text", max_length=limits.max_text_chars, max_lines=3, elem_id="example-text"
            )
            with gr.Row():
                add_button = gr.Button("Add example", elem_id="add-example", min_width=120)
                clear_button = gr.Button("Clear", elem_id="clear-examples", min_width=80)
            cards = gr.HTML(_examples([]), padding=False, elem_id="examples")
        with gr.Column(scale=1, min_width=300):
            gr.Markdown("### 2 · A new clip")
            file = _drop_zone("Clip or picture", "few-shot-file", limits)
            strip = gr.HTML(padding=False)
            again = gr.Button("Caption with the examples", variant="primary", elem_id="few-shot-run")
            answer = _answer("few-shot-answer")
    _on(add_button.click, add, [example_file, example_text, examples], [examples, cards, example_file, example_text])
    _on(clear_button.click, lambda: ([], _examples([])), [], [examples, cards])
    _on(file.change, run, [file, examples], [strip, answer])
    _on(again.click, run, [file, examples], [strip, answer])


def _search_tab(index: ShownClips | None, limits: Limits) -> None:
    if index is None:
        gr.Markdown("No clips to search: start the demo with `--clips FOLDER`.")
        return

    def run(text: str) -> str:
        if not text.strip():
            raise gr.Error("Describe the clip that you are looking for.", print_exception=False)
        try:
            found = index.search(_checked_text(text, limits), NUM_RESULTS)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return cards_html([Card(strip=strip, text=name, aside=f"{cosine:.2f}") for strip, name, cosine in found])

    with gr.Row():
        query = gr.Textbox(
            label=f"Search {len(index)} clips",
            placeholder="what happens in the clip?",
            max_length=limits.max_text_chars,
            max_lines=1,
            scale=5,
            min_width=220,
            elem_id="query",
        )
        button = gr.Button("Search", variant="primary", scale=1, min_width=100, elem_id="search-run")
    results = gr.HTML(
        cards_html([], "Nearest clips come first; the number is the cosine similarity."), elem_id="results"
    )
    _on(button.click, run, [query], [results])
    _on(query.submit, run, [query], [results])


def _drop_zone(label: str, elem_id: str, limits: Limits) -> gr.File:
    note = f"{label} · up to {limits.max_file_bytes >> 20} MB"
    suffixes = [*VIDEO_SUFFIXES, *PICTURE_SUFFIXES]
    return gr.File(label=note, file_types=suffixes, type="filepath", height=170, elem_id=elem_id)


def _answer(elem_id: str) -> gr.Textbox:
    return gr.Textbox(
        label="Caption", lines=2, interactive=False, elem_id=elem_id, elem_classes="answer", placeholder="..."
    )


def _on(event: Callable[..., Any], function: Callable[..., Any], inputs: list[Any], outputs: list[Any]) -> None:
    """Bind an event; handlers that use the model take turns, and none is exposed as a public API."""
    event(
        function,
        inputs,
        outputs,
        concurrency_id="model",
        concurrency_limit=1,
        api_visibility="private",
        show_progress="minimal",
    )


def _read(path: str, captioner: CaptionEngine, limits: Limits) -> Medium:
    try:
        return read_medium(Path(path), captioner.num_frames, limits)
    except (ValueError, OSError) as error:
        raise gr.Error(str(error), print_exception=False) from None


def _captions(captioner: CaptionEngine, medium: Medium, shown: Sequence[Demonstration] = ()) -> Iterator[str]:
    try:
        yield from captioner.stream_caption(medium, shown)
    except ValueError as error:
        raise gr.Error(str(error), print_exception=False) from None


def _checked_text(text: str, limits: Limits) -> str:
    """Put the text on one line and refuse it if it is over the limit (the page's own check can be bypassed)."""
    line = " ".join(text.split())
    if len(line) > limits.max_text_chars:
        raise gr.Error(f"At most {limits.max_text_chars} characters, please.", print_exception=False)
    return line


def _seen(medium: Medium) -> str:
    count = len(medium.frames)
    return strip_html(frame_strip(medium), "What the model sees" + (f": {count} frames" if count > 1 else ""))


def _examples(shown: list[Demonstration]) -> str:
    cards = [
        Card(strip=frame_strip(one.medium, 120, 3), text=one.text, aside=str(n)) for n, one in enumerate(shown, 1)
    ]
    return cards_html(cards, "No examples yet: the caption is written without any.")


def check_port_is_free(port: int) -> None:
    """Refuse a port that is already in use.

    Raises:
        OSError: if the port is taken, or may not be used.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # like the server: no wait after a restart
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise OSError(f"port {port} cannot be used ({error.strerror}); choose another with --port") from None


def serve(model: str, *, port: int | None = None, clips: Path | None = None) -> None:
    """Serve the page until interrupted, and print its address once it answers.

    Args:
        model: a saved model folder or a repository of the Hub; its code is executed.
        port: port to serve on; `None`: the first free one from 7860 on.
        clips: folder of videos and pictures to search.

    Raises:
        OSError: if the port is taken, or the model cannot be found.
        ValueError: if the model or the folder of clips cannot be used.
    """
    if port is not None:
        check_port_is_free(port)  # before the slow loading of the model
    captioner = CaptionEngine.load(model)
    limits = Limits()
    page = build_page(captioner, ShownClips(captioner, clips) if clips else None, limits)
    page.queue(max_size=MAX_QUEUE, default_concurrency_limit=1, api_open=False)
    _, url, _ = page.launch(
        server_port=port,
        max_file_size=limits.max_file_bytes,
        state_session_capacity=100,
        theme=THEME,
        css=CSS,
        ssr_mode=False,
        share=False,
        footer_links=[],
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"CosMo's demo serves at {url}", flush=True)
    page.block_thread()


def main() -> None:
    """Read the arguments or the environment, and serve the page."""
    parser = argparse.ArgumentParser(description="CosMo's demo")
    parser.add_argument("--model", default=os.environ.get("COSMO_MODEL"), help="model folder or repository")
    parser.add_argument(
        "--clips", type=Path, default=os.environ.get("COSMO_CLIPS"), help="folder to search: videos, pictures"
    )
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    if not arguments.model:
        parser.error("give a model: --model DIR, or the environment variable COSMO_MODEL")
    try:
        serve(arguments.model, port=arguments.port, clips=arguments.clips)
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {' '.join(str(error).split())}\n")


if __name__ == "__main__":
    main()
