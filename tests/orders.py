"""HL7 order messages for tests."""


def segment(name: str, **fields: str) -> str:
    """A segment with `f1`, `f2`... at their places."""
    numbers = {int(key[1:]): value for key, value in fields.items()}
    return "|".join([name, *(numbers.get(number, "") for number in range(1, max(numbers) + 1))]) + "\n"


_OBR = {
    **{"f1": "1", "f2": "PL1", "f3": "FI1", "f4": "CTT^CT thorax^99LOCAL^TX1^Thorax native^99LOCAL"},
    **{"f16": "DOC^Pasteur^Louis", "f18": "A1", "f19": "RP1", "f20": "SPS1", "f21": "CT1", "f24": "CT"},
    **{"f30": "WALK", "f31": "^Cough", "f34": "X&Curie&Marie", "f36": "20260105093000"},
}
ORDER = (
    r"MSH|^~\&|RIS|HOSP|PACS|HOSP|20260105080000||ORM^O01|M1|P|2.3.1||||||8859/1"
    + "\n"
    + segment("PID", f3="P1^^^HOSP&1.2.3&ISO^MR~X9^^^OTHER", f5="Müller^Anna^^Jr^Dr", f7="19700101", f8="F")
    + segment("PV1", f2="I", f3="W3^12", f8="REF1^Semmelweis^Ignaz", f15="B6", f19="ADM1")
    + segment("AL1", f1="1", f3="^Penicillin")
    + segment("ORC", f1="NW", f2="PL1", f3="FI1", f7="^^^202601050930^^S")
    + segment("OBR", **_OBR)
    + segment("ZDS", f1="1.2.3.4^^Application^DICOM")
)
_IPC = {"f1": "A2", "f2": "RP2", "f3": "1.2.3.5", "f5": "MR", "f6": "MRP^MR protocol^99LOCAL", "f7": "MR ROOM"}
OMI = (
    r"MSH|^~\&|RIS|HOSP|PACS|HOSP|20260105080000||OMI^O23^OMI_O23|M2|P|2.5.1||||||UNICODE UTF-8"
    + "\n"
    + segment("PID", f3="P2", f5="山田^太郎^^^^^L^I~Yamada^Tarou^^^^^L^A", f7="19800203", f8="M")
    + segment("ORC", f1="NW", f2="PL2", f3="FI2")
    + segment("TQ1", f1="1", f7="20260106101500.0000+0900", f9="S")
    + segment("OBR", f1="1", f2="PL2", f3="FI2", f4="MRH^MR head^99LOCAL")
    + segment("IPC", f4="SPS2", f9="MR1", **_IPC)
    + segment("IPC", f4="SPS3", f9="MR2", **_IPC)
)


def wire(text: str, encoding: str = "latin_1") -> bytes:
    """A message as it goes over the network: segments end with CR."""
    return text.strip().replace("\n", "\r").encode(encoding) + b"\r"


def order(*, control_id: str = "M1", control: str = "NW", accession_number: str = "A1", text: str = ORDER) -> bytes:
    """The order, or another one of these identifiers."""
    text = text.replace("|M1|", f"|{control_id}|").replace("ORC|NW|", f"ORC|{control}|")
    return wire(text.replace("|A1|", f"|{accession_number}|"))


def answer(data: bytes) -> tuple[str, str, str]:
    """MSA-1 to MSA-3 of an acknowledgment."""
    (msa,) = [line.split("|") for line in data.decode("latin_1").split("\r") if line.startswith("MSA")]
    return msa[1], msa[2], msa[3] if len(msa) > 3 else ""
