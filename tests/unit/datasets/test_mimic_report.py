"""Awkward reports, all made up."""

from __future__ import annotations

from radrank.datasets.mimic_report import split

RULE = " " + "_" * 78 + "\n"
BANNER = " " * 33 + "FINAL REPORT\n"


def test_findings_and_impression_lose_their_line_breaks():
    text = (
        BANNER
        + " EXAMINATION:  CHEST (PA AND LAT)\n \n FINDINGS:   The lungs\n are clear.\n \n IMPRESSION:\n \n Normal.\n"
    )
    assert split(text) == ("The lungs are clear.", "Normal.")


def test_spellings_fold():
    assert split(BANNER + " FINDING:  Clear.\n CONCLUSION:  Normal.") == ("Clear.", "Normal.")
    assert split(" PA AND LATERAL VIEWS OF THE CHEST:  Clear.\n IMPRESSIONS:  Normal.") == ("Clear.", "Normal.")


def test_the_last_section_of_a_name_wins_unless_it_is_empty():
    text = " IMPRESSION:  First.\n FINDINGS:  Clear.\n IMPRESSION:  Second.\n FINDINGS:\n"
    assert split(text) == ("Clear.", "Second.")


def test_another_header_ends_a_section():
    assert split(" FINDINGS:  Clear.\n NOTIFICATION:  Dr. ___ was called.\n") == ("Clear.", "")


def test_without_a_header_the_last_paragraph_counts():
    text = BANNER + " CHEST RADIOGRAPH PERFORMED ON ___\n \n Comparison with ___.\n \n No acute\n process.\n"
    assert split(text) == ("", "No acute process.")
    assert split("Clear lungs.") == ("", "Clear lungs.")


def test_a_free_paragraph_below_the_last_header_counts_but_not_the_header_s_own():
    assert split(" INDICATION:  Cough.\n \n COMPARISON:  ___.\n \n Heart is large.\n") == ("", "Heart is large.")
    assert split(" INDICATION:  Cough.\n \n COMPARISON:  None.\n") == ("", "")


def test_wet_reads_and_addenda_are_left_aside():
    report = BANNER + " IMPRESSION:  Normal.\n"
    wet = " WET READ: ___ ___ 9:03 PM\n  IMPRESSION: Perhaps an effusion.\n" + RULE
    addendum = RULE + " " * 33 + "FINAL ADDENDUM\n ADDENDUM:  Discussed at ___.\n IMPRESSION:  Discussed.\n"
    assert split(wet + report) == ("", "Normal.")
    assert split(report + addendum) == ("", "Normal.")
    assert split(addendum + RULE + report) == ("", "Normal.")


def test_masks_are_words_not_rules_and_colons_in_running_text_are_no_headers():
    text = " FINDINGS:  Tube at ___ cm,\n ___\n seen at 10:30 by Dr: ___.\n IMPRESSION:  As above: stable.\n"
    assert split(text) == ("Tube at ___ cm, ___ seen at 10:30 by Dr: ___.", "As above: stable.")


def test_an_empty_report_says_nothing():
    assert split("") == ("", "")
    assert split(BANNER + RULE) == ("", "")
    assert split("FINDINGS:\r\n  Clear.\r\n") == ("Clear.", "")
