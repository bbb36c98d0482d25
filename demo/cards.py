"""Frames and text as HTML: strips and a grid of cards, with all pictures inlined and all text escaped."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image


CSS = """
.gradio-container { width: 100%; max-width: 1080px !important; margin: 0 auto !important; }
#title h1 { font-size: 1.9rem; margin-bottom: .1rem; letter-spacing: -.02em; }
#title p { color: var(--body-text-color-subdued); margin-top: 0; }
.answer textarea { font-size: 1.25rem !important; line-height: 1.5 !important; }
#search-run { align-self: flex-end; height: 3rem; }
.strip { display: block; width: 100%; border-radius: 8px; }
.note { color: var(--body-text-color-subdued); font-size: .85rem; margin: .35rem 0 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); gap: 14px; }
.card { margin: 0; border: 1px solid var(--border-color-primary); border-radius: 10px; overflow: hidden;
        background: var(--background-fill-primary); }
.card img { display: block; width: 100%; }
.card figcaption { display: flex; justify-content: space-between; gap: 10px; padding: 8px 12px; font-size: .9rem;
                   overflow-wrap: anywhere; }
.card .aside { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; flex: none; }
footer { display: none !important; }
@media (max-width: 640px) {
  #title h1 { font-size: 1.5rem; }
  .gradio-container main { padding: .8rem !important; }
}
"""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One clip in a grid."""

    strip: Image.Image
    """Its frames, side by side."""
    text: str
    """Text below the frames."""
    aside: str = ""
    """Short note on the right."""


def strip_html(strip: Image.Image, note: str) -> str:
    """Strip over the full width with a line of text below it."""
    return (
        f'<img class="strip" alt="frames of the clip" src="{_inline(strip)}"><p class="note">{html.escape(note)}</p>'
    )


def cards_html(cards: Sequence[Card], empty: str = "") -> str:
    """Grid of cards, or the line `empty` if there are none."""
    if not cards:
        return f'<p class="note">{html.escape(empty)}</p>' if empty else ""
    figures = [
        f'<figure class="card"><img alt="frames of the clip" src="{_inline(card.strip)}"><figcaption>'
        f'<span>{html.escape(card.text)}</span><span class="aside">{html.escape(card.aside)}</span>'
        "</figcaption></figure>"
        for card in cards
    ]
    return f'<div class="cards">{"".join(figures)}</div>'


def _inline(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
