"""The words of the made-up reports: for each group, ways to find it, to conclude it, and to say that it is not there.

{side}, {zone}, {grade} and {kind} are filled by `demo_report`. No phrase of one group may use a word that
names another, so that a report speaks of a group only where it means it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phrases:
    """grades: mild, moderate and severe, in this group's words. names: how a list of negations calls the group."""

    grades: tuple[str, str, str]
    found: tuple[str, ...]
    concluded: tuple[str, ...]
    names: tuple[str, ...] = ()
    fine: tuple[str, ...] = ()


_PLAIN = ("mild", "moderate", "severe")
_SIZES = ("small", "moderate", "large")

PHRASES: Mapping[str, Phrases] = {
    "cardiomegaly": Phrases(
        ("mildly", "moderately", "markedly"),
        (
            "The heart is {grade} enlarged.",
            "The cardiac silhouette is {grade} enlarged.",
            "There is cardiomegaly, the heart {grade} enlarged.",
            "Heart size is {grade} increased, with an enlarged cardiothoracic ratio.",
            "{grade} enlarged cardiomediastinal silhouette.",
        ),
        ("Cardiomegaly.", "{grade} enlarged heart.", "Enlarged cardiac silhouette.", "Cardiac enlargement."),
        ("cardiomegaly", "cardiac enlargement"),
        ("The heart is normal in size.", "Heart size is within normal limits.", "Normal cardiac silhouette."),
    ),
    "opacity": Phrases(
        ("faint", "patchy", "dense"),
        (
            "There is a {grade} airspace opacity in the {side} {zone}.",
            "{grade} focal consolidation is seen in the {side} {zone}.",
            "{grade} infiltrate within the {side} {zone}.",
            "A {grade} area of increased opacity projects over the {side} {zone}.",
            "The {side} {zone} shows {grade} airspace disease.",
        ),
        (
            "{side} {zone} opacity, concerning for pneumonia.",
            "{grade} {side} {zone} consolidation.",
            "Probable {side} {zone} pneumonia.",
            "{side} {zone} airspace disease.",
        ),
        ("focal consolidation", "airspace disease", "focal infiltrate", "focal airspace opacity"),
        ("The lungs are clear.", "Lungs are clear bilaterally.", "Both lungs are clear."),
    ),
    "pleural_effusion": Phrases(
        _SIZES,
        (
            "There is a {grade} {side} pleural effusion.",
            "{grade} {side} effusion with blunting of the costophrenic angle.",
            "Blunted {side} costophrenic angle, consistent with a {grade} pleural effusion.",
            "{grade} amount of {side} pleural fluid.",
        ),
        ("{grade} {side} pleural effusion.", "{side} pleural effusion.", "{side} effusion, {grade}."),
        ("pleural effusion", "effusion", "pleural fluid"),
        ("The costophrenic angles are sharp.", "The pleural spaces are clear."),
    ),
    "pneumothorax": Phrases(
        _SIZES,
        (
            "There is a {grade} {side} apical pneumothorax.",
            "A {side} visceral pleural line is seen, a {grade} pneumothorax.",
            "{grade} {side} pneumothorax without mediastinal shift.",
            "Lucency without lung markings at the {side} apex, a {grade} pneumothorax.",
        ),
        ("{grade} {side} pneumothorax.", "{side} pneumothorax, {grade}."),
        ("pneumothorax",),
    ),
    "edema": Phrases(
        _PLAIN,
        (
            "{grade} bilateral perihilar haze with septal lines, consistent with pulmonary edema.",
            "There is {grade} pulmonary edema with indistinct vessels.",
            "{grade} pulmonary vascular congestion and interstitial edema.",
            "Prominent interstitial markings in both lungs, {grade} edema.",
        ),
        ("{grade} pulmonary edema.", "Pulmonary edema, {grade}.", "{grade} interstitial edema and congestion."),
        ("pulmonary edema", "vascular congestion", "overt edema"),
        ("Pulmonary vascularity is normal.", "The pulmonary vessels are unremarkable."),
    ),
    "atelectasis": Phrases(
        ("minimal", "mild", "moderate"),
        (
            "There is {grade} linear atelectasis at the {base}.",
            "{grade} bandlike atelectasis at the {base}.",
            "{grade} platelike subsegmental atelectasis, {base}.",
            "{grade} discoid atelectasis is noted at the {base}.",
        ),
        ("{grade} {side} basilar atelectasis.", "{side} basal subsegmental atelectasis."),
        ("atelectasis",),
    ),
    "nodule": Phrases(
        ("small", "rounded", "large"),
        (
            "There is a {grade} nodule in the {side} {zone}.",
            "A {grade} well-defined pulmonary nodule projects over the {side} {zone}.",
            "{grade} round nodular lesion, {side} {zone}.",
            "{side} {zone} pulmonary nodule, {grade}.",
        ),
        ("{grade} {side} {zone} nodule. CT is recommended.", "{side} {zone} pulmonary nodule.", "{side} lung nodule."),
        ("suspicious nodule", "pulmonary nodule or mass"),
    ),
    "granuloma": Phrases(
        ("solitary", "paired", "clustered"),
        (
            "There is {grade} calcified granuloma formation in the {side} {zone}.",
            "{grade} tiny calcified granuloma formation, {side} {zone}.",
            "Punctate calcification in the {side} {zone}, consistent with {grade} granuloma formation.",
            "Sequelae of old granulomatous disease in the {side} {zone}, with {grade} calcified foci.",
        ),
        ("Calcified {side} {zone} granuloma.", "Old granulomatous disease.", "{side} calcified granuloma, benign."),
        ("calcified granuloma",),
    ),
    "emphysema": Phrases(
        _PLAIN,
        (
            "The lungs are hyperexpanded with flattened diaphragms, {grade} emphysema.",
            "{grade} emphysematous change with a bulla and hyperlucent lungs.",
            "Hyperinflated lungs and flat diaphragms, consistent with {grade} COPD.",
            "{grade} hyperinflation, as in emphysema.",
        ),
        ("{grade} emphysema.", "COPD, {grade}.", "Hyperinflation, suggesting emphysema."),
        ("hyperinflation", "emphysema"),
        ("The lungs are normally inflated.",),
    ),
    "hypoinflation": Phrases(
        ("slightly", "moderately", "markedly"),
        (
            "Lung volumes are {grade} low, with crowding of the bronchovascular structures.",
            "Low lung volumes, {grade} reduced.",
            "There is shallow inspiration, lungs {grade} small, with elevated hemidiaphragms.",
            "The lungs are {grade} hypoinflated.",
        ),
        ("Low lung volumes.", "{grade} hypoinflated lungs.", "Shallow inspiration."),
        ("low lung volumes",),
    ),
    "device": Phrases(
        ("", "", ""),
        (
            "{kind} in place.",
            "{kind} noted.",
            "There is {kind}.",
            "There is evidence of {kind} in expected position.",
        ),
        ("{kind} as described.", "{kind} in satisfactory position."),
        ("indwelling device", "support device"),
    ),
    "fracture": Phrases(
        ("single-level", "two-level", "multilevel"),
        (
            "There is a {grade} displaced {side} {rib} rib fracture.",
            "{side} {rib} rib fracture, {grade}.",
            "Cortical break of the {side} {rib} ribs, {grade} fracture.",
            "{grade} fracture of the {side} lateral {rib} ribs.",
        ),
        ("{side} {rib} rib fracture.", "{grade} {side} rib fracture."),
        ("rib fracture", "displaced fracture"),
        ("The osseous structures are intact.", "Bony thorax is intact."),
    ),
    "aorta": Phrases(
        ("mildly", "moderately", "markedly"),
        (
            "The thoracic aorta is {grade} tortuous.",
            "{grade} ectatic, tortuous aorta with a calcified knob.",
            "Aortic knob is {grade} prominent with atherosclerotic calcification.",
            "{grade} unfolded and atherosclerotic aorta.",
        ),
        ("{grade} tortuous aorta.", "Aortic atherosclerosis.", "Tortuous thoracic aorta."),
        ("aortic ectasia", "aortic tortuosity"),
        ("Mediastinal contours are normal.", "The mediastinum is unremarkable.", "The aortic contour is normal."),
    ),
    "spine": Phrases(
        _PLAIN,
        (
            "There is {grade} scoliosis of the thoracic spine, convex to the {side}.",
            "{grade} {side}ward curvature of the thoracic spine.",
            "Thoracic scoliosis, {grade}, with {side}-sided convexity.",
            "{grade} {side} convex thoracic scoliosis.",
        ),
        ("{grade} thoracic scoliosis.", "Scoliosis of the thoracic spine, convex {side}."),
        ("scoliosis",),
        ("The thoracic spine is straight.",),
    ),
}

KIND_WORDS: Mapping[str, tuple[str, ...]] = {
    "pacemaker": (
        "a left chest wall pacemaker with its leads",
        "a dual-lead cardiac pacemaker",
        "a left-sided pacemaker",
    ),
    "central line": (
        "a right central venous catheter",
        "a right-sided central line",
        "a central venous line, tip in the SVC",
    ),
    "port": ("a right chest wall port", "a right-sided port catheter", "a right subclavian port"),
    "sternotomy wires": ("median sternotomy wires", "intact sternotomy wires", "sternal wires after sternotomy"),
}
ZONE_WORDS: Mapping[str, tuple[str, ...]] = {
    "upper": ("upper lobe", "upper lung zone", "upper lung"),
    "mid": ("midlung", "mid lung zone", "perihilar midlung"),
    "lower": ("lower lobe", "lung base", "lower lung zone"),
}
OPENINGS = (
    "The chest was examined in {view} projection.",
    "{view} radiograph of the chest.",
    "Chest, {view}.",
    "{view} view of the chest was obtained.",
)
COMPARISONS = (
    "Comparison is made with the prior study.",
    "In comparison with the previous radiograph, there is little interval change.",
    "Comparison: prior chest radiograph.",
    "Since the previous examination, no significant interval change.",
)
NORMAL = (
    "No acute cardiopulmonary abnormality.",
    "No acute cardiopulmonary disease.",
    "Normal chest.",
    "Normal chest radiograph.",
    "No evidence of acute cardiopulmonary process.",
    "Unremarkable examination of the chest.",
    "Negative for acute disease.",
    "No active disease.",
)
DENIALS = ("No {}.", "There is no {}.", "No evidence of {}.", "Negative for {}.", "{} is not seen.", "Without {}.")
