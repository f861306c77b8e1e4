"""A measurement report of the nodule in the images of a CT study (PS3.3 A.35.3, PS3.16 TID 1500)."""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset

from pacs_server.synthetic import phantom
from pacs_server.synthetic.findings import Slice, nodule_contour, slices
from pacs_server.synthetic.study import Options, Series, Study, code, item, reference

_SERIES: Final = Series(10, "SR", "1.2.840.10008.5.1.4.1.1.88.33", "Measurements")


def report(images: Sequence[Dataset], options: Options) -> Dataset:
    """A report that measures the nodule where it is largest: its outline, long axis, area and mean density."""
    stack = slices(images)
    study = Study.beside("sr", images, options)
    # Where it is not in any image, the middle one is reported on.
    measured = max(stack, key=lambda one: (_extent(one), -abs(one.height - stack[len(stack) // 2].height)))
    first = stack[0].image
    evidence = item(StudyInstanceUID=first.StudyInstanceUID, ReferencedSeriesSequence=[item(
        SeriesInstanceUID=first.SeriesInstanceUID, ReferencedSOPSequence=[reference(one.image) for one in stack],
    )])  # fmt: skip
    return study.start(_SERIES, 1, {
        "ReferencedPerformedProcedureStepSequence": [], "CompletionFlag": "COMPLETE", "VerificationFlag": "UNVERIFIED",
        "PreliminaryFlag": "FINAL", "PerformedProcedureCodeSequence": [],
        "CurrentRequestedProcedureEvidenceSequence": [evidence], "ValueType": "CONTAINER",
        "ConceptNameCodeSequence": [code("126000", "DCM", "Imaging Measurement Report")],
        "ContinuityOfContent": "SEPARATE",
        "ContentTemplateSequence": [item(MappingResource="DCMR", TemplateIdentifier="1500")],
        "ContentSequence": _content(study, stack, measured),
    })  # fmt: skip


def _extent(one: Slice) -> float:
    outline = nodule_contour(one)
    return outline[0][0] - outline[len(outline) // 2][0] if outline else 0.0


def _content(study: Study, stack: Sequence[Slice], measured: Slice) -> list[Dataset]:
    language = _coded("HAS CONCEPT MOD", code("121049", "DCM", "Language of Content Item and Descendants"),
                      code("en", "RFC5646", "English"))  # fmt: skip
    procedure = _coded("HAS CONCEPT MOD", code("121058", "DCM", "Procedure reported"),
                       code("169069000", "SCT", "CT of chest"))  # fmt: skip
    library = _container(code("111028", "DCM", "Image Library"), [
        _container(code("126200", "DCM", "Image Library Group"), [_image("CONTAINS", one) for one in stack]),
    ])  # fmt: skip
    group = _container(code("125007", "DCM", "Measurement Group"), _group(study, measured))
    measurements = _container(code("126010", "DCM", "Imaging Measurements"), [group])
    return [language, *_observers(study), procedure, library, measurements]


def _group(study: Study, measured: Slice) -> list[Dataset]:
    """PS3.16 TID 1410: what is measured in a region of an image."""
    mask = measured.mask(phantom.nodule)
    slope, intercept = (float(measured.image.get(name, 1)) for name in ("RescaleSlope", "RescaleIntercept"))
    values = _pixels(measured.image)[mask] * slope + intercept if mask.any() else np.zeros(1)
    millimetre, square = code("mm", "UCUM", "mm"), code("mm2", "UCUM", "square millimeter")
    mean = _coded("HAS CONCEPT MOD", code("121401", "DCM", "Derivation"), code("373098007", "SCT", "Mean"))
    long, area = _extent(measured), math.pi * _extent(measured) ** 2 / 4
    return [
        _text("HAS OBS CONTEXT", code("112039", "DCM", "Tracking Identifier"), "Nodule 1"),
        _uid(code("112040", "DCM", "Tracking Unique Identifier"), study.uid("nodule")),
        _coded("CONTAINS", code("121071", "DCM", "Finding"), code("27925004", "SCT", "Nodule")),
        _coded("HAS CONCEPT MOD", code("363698007", "SCT", "Finding Site"), code("3341006", "SCT", "Right lung")),
        _outline(measured),
        _number(code("103339001", "SCT", "Long Axis"), long, millimetre),
        _number(code("42798000", "SCT", "Area"), area, square),
        _number(code("112031", "DCM", "Attenuation Coefficient"), float(values.mean()),
                code("[hnsf'U]", "UCUM", "Hounsfield unit"), [mean]),
    ]  # fmt: skip


def _pixels(image: Dataset) -> Any:
    data = image.pixel_array
    return data if data.ndim == 2 else data[0]


def _observers(study: Study) -> list[Dataset]:
    """PS3.16 TID 1002, TID 1004: the device that measured."""
    return [
        _coded("HAS OBS CONTEXT", code("121005", "DCM", "Observer Type"), code("121007", "DCM", "Device")),
        _uid(code("121012", "DCM", "Device Observer UID"), study.uid("device")),
        _text("HAS OBS CONTEXT", code("121013", "DCM", "Device Observer Name"), "Synthetic"),
    ]


def _outline(one: Slice) -> Dataset:
    """PS3.3 C.18.6: a closed polyline, by column and row."""
    points = nodule_contour(one) or [(0.0, 0.0), (10.0, 0.0), (10.0, 10.0)]
    data = [value for point in [*points, points[0]] for value in one.pixel(*point)]
    return item(
        RelationshipType="CONTAINS", ValueType="SCOORD", GraphicType="POLYLINE", GraphicData=data,
        ConceptNameCodeSequence=[code("111030", "DCM", "Image Region")],
        ContentSequence=[_image("SELECTED FROM", one)],
    )  # fmt: skip


def _image(relationship: str, one: Slice) -> Dataset:
    return item(RelationshipType=relationship, ValueType="IMAGE", ReferencedSOPSequence=[reference(one.image)])


def _container(name: Dataset, content: list[Dataset]) -> Dataset:
    return item(RelationshipType="CONTAINS", ValueType="CONTAINER", ContinuityOfContent="SEPARATE",
                ConceptNameCodeSequence=[name], ContentSequence=content)  # fmt: skip


def _coded(relationship: str, name: Dataset, value: Dataset) -> Dataset:
    return item(RelationshipType=relationship, ValueType="CODE", ConceptNameCodeSequence=[name],
                ConceptCodeSequence=[value])  # fmt: skip


def _text(relationship: str, name: Dataset, value: str) -> Dataset:
    return item(RelationshipType=relationship, ValueType="TEXT", ConceptNameCodeSequence=[name], TextValue=value)


def _uid(name: Dataset, value: str) -> Dataset:
    return item(RelationshipType="HAS OBS CONTEXT", ValueType="UIDREF", ConceptNameCodeSequence=[name], UID=value)


def _number(name: Dataset, value: float, unit: Dataset, modifiers: Sequence[Dataset] = ()) -> Dataset:
    measured = item(NumericValue=round(value, 2), MeasurementUnitsCodeSequence=[unit])
    return item(RelationshipType="CONTAINS", ValueType="NUM", ConceptNameCodeSequence=[name],
                MeasuredValueSequence=[measured], ContentSequence=list(modifiers) or None)  # fmt: skip
