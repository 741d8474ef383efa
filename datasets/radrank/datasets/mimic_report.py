"""Sections of a free-text radiology report, as MIMIC-CXR's are written.

A header opens a line: one blank, capitals, a colon (" FINDINGS:"). The rules are those of MIT-LCP's
section parser as its users know them; this is an implementation of ours. De-identified words (`___`) stay.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# A mask is three underscores; a rule is a line of many.
_RULE = re.compile(r"^[ \t]*_{10,}[ \t]*$", re.MULTILINE)
_BANNER = re.compile(r"^[ \t]*FINAL REPORT[ \t]*$", re.MULTILINE)
_ASIDE = re.compile(r"\s*(?:FINAL )?(?:ADDENDUM|WET READ)\b")
_HEADER = re.compile(r"^ ?([A-Z][A-Z ()/,&'#.-]*):(?=\s|$)", re.MULTILINE)
_PARAGRAPH = re.compile(r"\n[ \t]*\n")

_FINDINGS = "findings"
_IMPRESSION = "impression"
_SPELLINGS = {
    spelling: name
    for name, spellings in {
        _IMPRESSION: (
            "IMPRESSION", "IMPRESSIONS", "IMPRESION", "IMPRESSON", "IMPRSSION", "IMPRESSIN", "IMPPRESSION",
            "IMPRESSION AND RECOMMENDATION", "IMPRESSION AND RECOMMENDATIONS", "PRELIMINARY IMPRESSION",
            "FINAL IMPRESSION", "CONCLUSION", "CONCLUSIONS", "SUMMARY", "OPINION",
        ),
        _FINDINGS: (
            "FINDINGS", "FINDING", "FIDINGS", "FINDIGNS", "FNDINGS", "FINDNGS", "FINDINDGS",
            "CHEST", "CHEST FINDINGS", "PA AND LATERAL VIEWS OF THE CHEST", "PA AND LATERAL CHEST",
            "AP CHEST", "PA CHEST", "PORTABLE CHEST", "SINGLE FRONTAL VIEW OF THE CHEST", "CHEST RADIOGRAPH",
            "FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "FINDINGS / IMPRESSION",
            "IMPRESSION AND FINDINGS", "IMPRESSION/FINDINGS",
        ),
    }.items()
    for spelling in spellings
}  # fmt: skip


class Sections(NamedTuple):
    findings: str
    impression: str


def split(report: str) -> Sections:
    """Findings and impression, each as one run of text; both empty where the report says nothing.

    The last section of a name that holds text wins. Where neither stands, the last paragraph (of the last section,
    if it has several) is the impression. Wet reads and addenda, ruled off by underscores, are left aside.
    """
    text = _body(report.replace("\r\n", "\n"))
    headers = list(_HEADER.finditer(text))
    ends = [*(header.start() for header in headers[1:]), len(text)]
    found: dict[str, str] = {}
    for header, end in zip(headers, ends, strict=False):
        name = _SPELLINGS.get(" ".join(header[1].split()))
        if name and (section := _run(text[header.end() : end])):
            found[name] = section
    if not found:
        return Sections("", _last_paragraph(text, headers))
    return Sections(found.get(_FINDINGS, ""), found.get(_IMPRESSION, ""))


def _body(report: str) -> str:
    """The block between rules that holds the report proper, below its banner."""
    blocks = [block for block in _RULE.split(report) if block.strip()]
    if not blocks:
        return ""
    final = [block for block in blocks if _BANNER.search(block)]
    proper = [block for block in blocks if not _ASIDE.match(block)]
    block = (final or proper or blocks)[0]
    return _BANNER.split(block)[-1]


def _last_paragraph(text: str, headers: list[re.Match[str]]) -> str:
    last = text[headers[-1].end() :] if headers else text
    paragraphs = [paragraph for part in _PARAGRAPH.split(last) if (paragraph := _run(part))]
    # Beneath a header such as COMPARISON the first paragraph is that section's own.
    return paragraphs[-1] if len(paragraphs) > (1 if headers else 0) else ""


def _run(text: str) -> str:
    return " ".join(text.split())
