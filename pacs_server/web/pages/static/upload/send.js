// One file to the server, as the body of a Store transaction (PS3.18 10.5) of its own.

const PREFIX_SIZE = 132;
// Names that no DICOM file has.
const OTHERS = /\.(jpe?g|png|gif|bmp|tiff?|pdf|txt|html?|xml|json|js|css|exe|dll|inf|ico|ini|docx?|csv|mp4|avi|md|DS_Store)$/i;

/** Why a file need not be sent; "" if it has to be. */
export async function unfit(blob, path) {
  const name = path.split("/").pop();
  if (!blob.size) return "empty";
  const head = new Uint8Array(await blob.slice(0, PREFIX_SIZE).arrayBuffer());
  const isDicom = String.fromCharCode(...head.slice(128)) === "DICM";
  if (name.toUpperCase() === "DICOMDIR") return "directory";
  // Files without a preamble are none by PS3.10 7.1, but are met; the server looks into them.
  return !isDicom && (OTHERS.test(name) || name.startsWith(".")) ? "noDicom" : "";
}

/**
 * Send a blob. `progress` is told how many of its bytes have left. Resolves to {kind, reason, detail}; kind is
 * "stored", "warned", "failed", "lost" (worth another try) or "login".
 */
export function send(blob, prefix, progress, signal) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.open("POST", `${prefix}/dicom-web/studies`);
    request.setRequestHeader("content-type", "application/dicom");
    request.setRequestHeader("accept", "application/dicom+json");
    request.upload.addEventListener("progress", (event) => progress(event.loaded));
    request.addEventListener("load", () => resolve(result(request)));
    for (const event of ["error", "abort", "timeout"]) request.addEventListener(event, () => resolve({ kind: "lost" }));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(blob);
  });
}

function result(request) {
  if (request.status === 401) return { kind: "login" };
  if (request.status === 503 || request.status === 429 || request.status === 502 || request.status === 504) return { kind: "lost" };
  let answer = {};
  try {
    answer = JSON.parse(request.responseText || "{}");
  } catch {
    // A proxy answered.
  }
  const first = (sequence) => answer[sequence]?.Value?.[0];
  const stored = first("00081199");
  if (stored) {
    const warning = stored["00081196"]?.Value?.[0];
    return warning ? { kind: "warned", reason: `w${warning}` } : { kind: "stored" };
  }
  const failed = first("00081198") || first("0008119A");
  const told = /"(.*)"/.exec(request.getResponseHeader("warning") || "")?.[1];
  return { kind: "failed", reason: `r${failed?.["00081197"]?.Value?.[0]}`, detail: told || answer.detail || "" };
}
