"""What an X-ray says of itself: the view it shows, and whether it is something else than a frontal chest X-ray."""

from __future__ import annotations

import re

from medlip.images.elements import Elements

ELEMENTS = """
    SOPClassUID Modality BodyPartExamined ViewPosition ViewCodeSequence AnatomicRegionSequence PatientOrientation
    PresentationIntentType
"""

# Modalities and SOP classes that a chest X-ray may come as; others are named, unless the file says nothing of them.
_MODALITIES = {"CR", "DX", "DR", "XR", "RG", "OT", "SC"}
_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": "Computed Radiography",
    "1.2.840.10008.5.1.4.1.1.1.1": "Digital X-Ray, for presentation",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "Digital X-Ray, for processing",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture",
    "1.2.840.10008.5.1.4.1.1.7.1": "Secondary Capture, several frames of single bits",
    "1.2.840.10008.5.1.4.1.1.7.2": "Secondary Capture, several frames of bytes",
    "1.2.840.10008.5.1.4.1.1.7.3": "Secondary Capture, several frames of words",
    "1.2.840.10008.5.1.4.1.1.7.4": "Secondary Capture, several frames in colour",
}
_FOR_PROCESSING = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.1\.[123]\.1")
_CHEST = re.compile(r"CHEST|THORA|TORAX|LUNG|\bCXR")
_OTHER_PARTS = re.compile(
    r"\b([CTL]{1,2}-?SPINE|ABDOMEN|ANKLE|ARM|BREAST|CALCANEUS|CLAVICLE|COCCYX|CSPINE|EL?BOW|FACE|FEMUR|FINGER|FOOT|FOREARM|HAND"
    r"|HEAD|HEEL|HIP|HUMERUS|JAW|KNEE|LEG|MANDIBLE|MAXILLA|NECK|NOSE|ORBIT|PATELLA|PELVIS|RADIUS|RIBS?|SACRUM|SCAPULA"
    r"|SHOULDER|SINUS(?:ES)?|SKULL|SPINE|STERNUM|THUMB|TIBIA|TOE|TOOTH|TEETH|ULNA|WRIST)S?\b"
)
_VIEWS = (  # words of View Position and of the meanings of view codes; the first that fits counts
    ("decubitus", re.compile(r"DECUB|^[LR]LD$")),
    ("oblique", re.compile(r"OBLIQ|^(?:LAO|RAO|LPO|RPO|LLO|RLO)$")),
    ("lordotic", re.compile(r"LORDO|APICAL")),
    ("lateral", re.compile(r"(?<![A-Z])LAT|LATERAL|^(?:LL|RL|LLAT|RLAT)$|PROFIL")),
    ("PA", re.compile(r"(?<![A-Z])P\W?A(?![A-Z])|POSTERO.?ANTERIOR")),
    ("AP", re.compile(r"(?<![A-Z])A\W?P(?![A-Z])|ANTERO.?POSTERIOR")),
)
FRONTAL = ("PA", "AP")


def view_of(elements: Elements) -> str:
    """Return "PA", "AP", "lateral", another view by name ("oblique", "decubitus", "lordotic"), or "" when none is known."""
    for text in (*elements.words("ViewPosition"), *_meanings(elements, "ViewCodeSequence")):
        for view, pattern in _VIEWS:
            if pattern.search(text):
                return view
    ends = {word[0] for word in elements.words("PatientOrientation")}
    return "lateral" if len(ends) == 2 and ends & set("AP") and ends & set("HF") else ""


def unfit_for(elements: Elements) -> str:
    """Return what says that this is no frontal or lateral chest X-ray: "the modality is CT"; "" when nothing does."""
    reasons = []
    (modality,) = elements.words("Modality")[:1] or [""]
    if re.fullmatch(r"[A-Z]{2,10}", modality) and modality not in _MODALITIES:
        reasons.append(f"the modality is {modality}")
    sop_class = str(elements.value("SOPClassUID") or "").strip(" \0")
    name = _class_name(sop_class)
    if name and sop_class not in _CLASSES:
        reasons.append(f"the kind is {name}")
    parts = [*elements.words("BodyPartExamined"), *_meanings(elements, "AnatomicRegionSequence")]
    if not any(map(_CHEST.search, parts)):
        reasons += [f"the body part is {found[1]}" for found in map(_OTHER_PARTS.search, parts[:1]) if found]
    view = view_of(elements)
    if view not in (*FRONTAL, "lateral", ""):
        reasons.append(f"the view is {view}")
    return ", ".join(reasons)


def is_for_processing(elements: Elements) -> bool:
    """Whether the pixels are a detector's own, not made to be looked at."""
    sop_class = str(elements.value("SOPClassUID") or "").strip(" \0")
    return "FOR PROCESSING" in elements.words("PresentationIntentType") or bool(_FOR_PROCESSING.fullmatch(sop_class))


def _meanings(elements: Elements, name: str) -> list[str]:
    return [word for item in elements.items(name) for word in item.words("CodeMeaning")]


def _class_name(sop_class: str) -> str:
    from pydicom.uid import UID_dictionary

    return UID_dictionary[sop_class][0] if sop_class in UID_dictionary else ""
