// Which files this browser has uploaded already, so that the same folder can be chosen again after a break.

const NAME = "pacs-uploads";
const STORE = "stored";
let opening;

function database() {
  opening ??= new Promise((resolve) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    // Without it everything is sent, which costs no more than time.
    request.onerror = () => resolve(null);
  });
  return opening;
}

const keyOf = (prefix, file) => [prefix, file.path, file.size, file.stamp].join("\n");

/** Whether the file was stored from here. */
export async function wasStored(prefix, file) {
  const found = await database();
  if (!found) return false;
  return new Promise((resolve) => {
    const request = found.transaction(STORE).objectStore(STORE).get(keyOf(prefix, file));
    request.onsuccess = () => resolve(Boolean(request.result));
    request.onerror = () => resolve(false);
  });
}

/** Keep in mind that the file was stored. */
export async function noteStored(prefix, file) {
  (await database())?.transaction(STORE, "readwrite").objectStore(STORE).put(1, keyOf(prefix, file));
}
