"""The page itself: its head, its style, its script."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from dglrec import __version__
from dglrec.report.html import Html, join, raw, tag

GENERATOR = f"dglrec {__version__}"

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--soft:#57606a;--rule:#d0d7de;--link:#0550ae;
--c0:#0b62a8;--c1:#b34700;--c2:#1a7a3c;--c3:#7b2fb5;--c4:#b0174f;--c5:#6b5b00;--c6:#006e75;--c7:#5c636b}
@media (prefers-color-scheme:dark){:root{--bg:#14171c;--fg:#e6e9ee;--soft:#a5aeb9;--rule:#3a424d;
--link:#79b8ff;--c0:#6cb6ff;--c1:#ffa657;--c2:#7ee787;--c3:#d2a8ff;--c4:#ff8fb1;--c5:#d8d860;
--c6:#5fd7df;--c7:#9aa4af}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:16px;background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:.4em 0}
h2{font-size:1.3rem;margin:1.6em 0 .4em;padding-top:.5em;border-top:1px solid var(--rule)}
h3{font-size:1.05rem;margin:1.4em 0 .4em}
p{max-width:75ch;margin:.4em 0 .8em}
a{color:var(--link)}
nav ul{display:flex;flex-wrap:wrap;gap:4px 16px;list-style:none;padding:0}
nav a{display:inline-block;padding:4px 0}
.skip{position:absolute;left:-9999px}
.skip:focus{left:16px;top:8px;background:var(--bg);padding:4px}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.grid{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:24px;align-items:start}
.grid.wide{grid-template-columns:repeat(2,minmax(0,1fr))}
.grid>*{min-width:0}
@media (max-width:1050px){.grid{grid-template-columns:repeat(2,minmax(0,1fr))}}
@media (max-width:700px){.grid,.grid.wide{grid-template-columns:minmax(0,1fr)}body{padding:12px}}
figure{margin:0;max-width:560px}
figcaption{font-weight:600;margin-bottom:4px}
svg{display:block;width:100%;height:auto}
svg text{font-size:12.5px;fill:var(--fg);paint-order:stroke;stroke:var(--bg);stroke-width:3px;
stroke-linejoin:round}
line.grid{stroke:var(--rule);stroke-width:1}
line.axis{stroke:var(--fg);stroke-width:1.5}
line.diagonal{stroke:var(--soft);stroke-dasharray:3 4;stroke-width:1.5}
.line{fill:none;stroke-width:2.2}
.interval{stroke-width:4}
.length{stroke-width:13}
.dashed{stroke-dasharray:7 4}
.s0{--c:var(--c0)}.s1{--c:var(--c1)}.s2{--c:var(--c2)}.s3{--c:var(--c3)}
.s4{--c:var(--c4)}.s5{--c:var(--c5)}.s6{--c:var(--c6)}.s7{--c:var(--c7)}
.line,.interval,.length{stroke:var(--c)}
.dot,.point{fill:var(--c)}
.point{fill-opacity:.75;cursor:pointer}
.point.on{stroke:var(--fg);stroke-width:2.5;fill-opacity:1}
svg tspan{font-weight:600}
svg .tip{stroke-width:5px;pointer-events:none;font-weight:600}
.said{min-height:3em;margin:4px 0;color:var(--soft);font-size:.9rem}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;list-style:none;margin:4px 0;padding:0;
font-size:.9rem}
.key{display:inline-block;width:12px;height:12px;margin-right:6px;border-radius:2px;
background:var(--c)}
.note{color:var(--soft);font-size:.9rem}
ul.note{padding-left:1.2em}
summary{cursor:pointer;padding:4px 0;color:var(--link)}
.scroll{overflow-x:auto;max-height:32em;overflow-y:auto;margin-bottom:12px}
table{border-collapse:collapse;font-size:.9rem;min-width:50%}
caption{text-align:left;font-weight:600;padding:4px 0}
th,td{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid var(--rule);vertical-align:top}
thead th{color:var(--soft);white-space:normal;vertical-align:bottom}
tbody th{font-weight:400;min-width:9em}
tbody th.short{min-width:0}
td:not(.number){min-width:8em}
.long{display:block;min-width:18em}
.number,thead th+th{overflow-wrap:normal}
td.number{white-space:nowrap}
.number{text-align:right;font-variant-numeric:tabular-nums}
pre{overflow-x:auto;max-width:75ch;padding:8px 12px;border:1px solid var(--rule);font-size:.9rem}
.reason{display:block;color:var(--soft);font-size:.82rem}
@media print{nav,summary,.said{display:none}}
"""

SCRIPT = """
'use strict';
for (const map of document.querySelectorAll('.map')) {
  const said = JSON.parse(map.querySelector('script').textContent);
  const points = Array.from(map.querySelectorAll('.point'));
  const tip = map.querySelector('.tip'), line = map.querySelector('.said');
  let at = -1;
  const show = (next) => {
    if (next < 0 || next >= points.length) return;
    if (at >= 0) points[at].classList.remove('on');
    at = next;
    const point = points[at], x = Number(point.getAttribute('cx'));
    point.classList.add('on');
    const words = said[at];
    tip.textContent = words.length > 48 ? words.slice(0, 47) + '\\u2026' : words;
    tip.setAttribute('text-anchor', x < 140 ? 'start' : x > 280 ? 'end' : 'middle');
    tip.setAttribute('x', x);
    tip.setAttribute('y', Math.max(16, Number(point.getAttribute('cy')) - 9));
    line.textContent = words;
  };
  map.addEventListener('pointerover', (event) => show(points.indexOf(event.target)));
  map.addEventListener('click', (event) => show(points.indexOf(event.target)));
  map.addEventListener('keydown', (event) => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (!step) return;
    event.preventDefault();
    show(Math.min(points.length - 1, Math.max(0, at + step)));
  });
}
"""


@dataclass(frozen=True)
class Content:
    """What a page holds.

    Attributes:
        names: of what it is about.
        said: how much that is, in a sentence.
        sections: heading, anchor and content; those without content are left out.
    """

    names: list[str]
    said: str
    sections: list[tuple[str, str, Html]]


def page(title: str, said: str, sections: Sequence[tuple[str, str, Html]]) -> str:
    """A whole page.

    The policy in its head lets nothing be loaded from anywhere, and no script and no style run but
    those of this module, which it knows by their digests.

    Args:
        title: of the page.
        said: what it is about.
        sections: heading, anchor and content; those without content are left out.
    """
    present = [one for one in sections if one[2]]
    policy = (
        f"default-src 'none'; style-src '{_digest(STYLE)}'; script-src '{_digest(SCRIPT)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=Html(policy)),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="generator", content=GENERATOR),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        raw("style", STYLE),
    )
    links = (tag("li", tag("a", heading, href=f"#{anchor}")) for heading, anchor, _ in present)
    body = tag(
        "body",
        tag("a", "To the content", href="#content", class_="skip"),
        tag("header", tag("h1", title), tag("p", said)),
        tag("nav", tag("ul", *links), aria_label="Sections"),
        tag("main", join(content for *_, content in present), id="content"),
        tag("footer", tag("p", f"Made by {GENERATOR}, report.", class_="note")),
        raw("script", SCRIPT),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _digest(code: str) -> str:
    digest = hashlib.sha256(code.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
