// Which files this browser has uploaded already, so that the same folder can be chosen again after a break.

const NAME = "pacs-uploads";
const STORE = "stored";
// Longer than a break, and no longer: what was stored may be deleted, and the names of files are nobody else's business.
const KEPT = 7 * 24 * 3600 * 1000;
let opening;

function database() {
  opening ??= new Promise((resolve) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => {
      forget(request.result);
      resolve(request.result);
    };
    // Without it everything is sent, which costs no more than time.
    request.onerror = () => resolve(null);
  });
  return opening;
}

function forget(found) {
  found.transaction(STORE, "readwrite").objectStore(STORE).openCursor().onsuccess = ({ target }) => {
    const entry = target.result;
    if (!entry) return;
    if (Date.now() - entry.value >= KEPT) entry.delete();
    entry.continue();
  };
}

const keyOf = (prefix, file) => [prefix, file.path, file.size, file.stamp].join("\n");

/** Whether the file was stored from here. */
export async function wasStored(prefix, file) {
  const found = await database();
  if (!found) return false;
  return new Promise((resolve) => {
    const request = found.transaction(STORE).objectStore(STORE).get(keyOf(prefix, file));
    request.onsuccess = () => resolve(Date.now() - (request.result ?? 0) < KEPT);
    request.onerror = () => resolve(false);
  });
}

/** Keep in mind that the file was stored. */
export async function noteStored(prefix, file) {
  (await database())?.transaction(STORE, "readwrite").objectStore(STORE).put(Date.now(), keyOf(prefix, file));
}
