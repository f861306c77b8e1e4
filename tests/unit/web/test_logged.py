"""What the log says of a request."""

import pytest

from pacs_server.web.logged import logged_path


@pytest.mark.parametrize(
    ("path", "parameters", "logged"),
    [
        ("/dicom-web/studies/1.2.3/series", {"study": "1.2.3"}, "/dicom-web/studies/1.2.3/series"),
        ("/api/v1/patients/DOE^JANE", {"patient": "DOE^JANE"}, "/api/v1/patients/{patient}"),
        ("/api/v1/patients/4711", {"patient": "4711"}, "/api/v1/patients/{patient}"),
        ("/api/v1/tasks/7", {"task": 7}, "/api/v1/tasks/{task}"),
        ("/login", {}, "/login"),
        ("/dicom-web/DOE^JANE", None, "/dicom-web/..."),
        ("/DOE^JANE", None, "/"),
    ],
)
def test_paths_without_names_and_ids(path: str, parameters: dict[str, object] | None, logged: str) -> None:
    known = {} if parameters is None else {"endpoint": object(), "path_params": parameters}
    assert logged_path({"path": path, **known}) == logged
